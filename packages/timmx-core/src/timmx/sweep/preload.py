"""Imports torch, timm and converters once: what children of a sweep are forked from.

multiprocessing's fork server imports this module, which imports what `PRELOAD` names.
"""

from __future__ import annotations

import gc
import importlib
import os
import traceback
from contextlib import suppress
from pathlib import Path

PRELOAD = "TIMMX_SWEEP_PRELOAD"
"""The environment variable with the names of the modules that backends ask for."""

COMMON = (
    "torch",
    "timm",
    "torch.export._trace",
    "torch.export._unlift",
    "torch._functorch.partitioners",
    "torch._inductor.constant_folding",
    "timmx.sweep.worker",
    "timmx.exporting.session",
    "timmx.capture.trace",
    "timmx.model.load",
    "timmx.model.preparation",
    "timmx.verification.comparison",
)


def native_threads() -> int:
    """Number of threads of this process, those of libraries included; 0 if the system does not say."""
    with suppress(OSError):
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    return 0


def preload(names: tuple[str, ...]) -> None:
    """Import modules, and exclude their objects from garbage collections, which would copy shared pages."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # an import may raise anything; the cell that needs it reports the error
            traceback.print_exc()
    gc.collect()
    gc.freeze()


if PRELOAD in os.environ:
    preload((*COMMON, *filter(None, os.environ[PRELOAD].split(","))))

FORKED_FROM = os.getpid()
THREADS = native_threads()
"""Of the process that imported this module. More than one: a fork of it may find a lock that nobody releases."""
