"""How many threads a runtime may use: all cores of this process, unless someone measures with fewer."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_asked: ContextVar[int | None] = ContextVar("timmx_threads", default=None)


def asked_threads() -> int | None:
    """The number that a runner which is opened now is held to; None where it may choose."""
    return _asked.get()


@contextmanager
def held_to(count: int | None) -> Iterator[None]:
    """Hold the runners that are opened inside the block to `count` threads."""
    token = _asked.set(count)
    try:
        yield
    finally:
        _asked.reset(token)


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
