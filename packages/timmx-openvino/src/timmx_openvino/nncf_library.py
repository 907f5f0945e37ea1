"""NNCF, imported without its telemetry and called without its progress bars, which it prints to stdout."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from typing import Any

# Otherwise NNCF 3.4 sends events to Google Analytics. Read when it is imported.
os.environ.setdefault("NNCF_CI", "1")

import nncf
from nncf.quantization import range_estimator

logging.getLogger("nncf").setLevel(logging.ERROR)

__all__ = ["compress_weights", "nncf", "quantize", "range_estimator"]


def compress_weights(*arguments: Any, **options: Any) -> Any:
    """`nncf.compress_weights`, quiet."""
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.compress_weights(*arguments, **options)


def quantize(*arguments: Any, **options: Any) -> Any:
    """`nncf.quantize`, quiet."""
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(*arguments, **options)
