"""NNCF, imported without its telemetry."""

from __future__ import annotations

import logging
import os

# Otherwise NNCF 3.4 sends events to Google Analytics. Read when it is imported.
os.environ.setdefault("NNCF_CI", "1")

import nncf

logging.getLogger("nncf").setLevel(logging.ERROR)

__all__ = ["nncf"]
