"""Imports libraries once: multiprocessing's fork server imports this module, and children are forked from it."""

from __future__ import annotations

import gc
import importlib
import os
import traceback

from timmx.processes.forking import PRELOAD, native_threads


def preload(names: tuple[str, ...]) -> None:
    """Import modules, and exclude their objects from garbage collections, which would copy shared pages."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:  # an import may raise anything; the task that needs it reports the error
            traceback.print_exc()
    gc.collect()
    gc.freeze()


if PRELOAD in os.environ:
    preload(tuple(filter(None, os.environ[PRELOAD].split(","))))

FORKED_FROM = os.getpid()
THREADS = native_threads()
"""Of the process that imported this module. More than one: a fork of it may find a lock that nobody releases."""
