"""When a process can be forked."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

PRELOAD = "TIMMX_PRELOAD"
"""The environment variable with the names of the modules that the fork server imports, separated by commas."""

_ENDING_S = 2.0
"""How long threads of a library may take to end after the thread that used it."""

_NVIDIA_DEVICES = "/dev/nvidia"


def native_threads() -> int:
    """Number of threads of this process, those of libraries included; 0 if the system does not say."""
    with suppress(OSError):
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    return 0


def is_safe_to_fork(waiting: int) -> bool:
    """Whether a fork of this process works: fork copies only the calling thread, and not the state of a GPU.

    Threads of OpenMP belong to the thread that has computed with it, and end after it. So a process can compute in
    another thread than its main thread, and fork when that one has ended.

    Args:
        waiting: number of Python threads that only wait for input, and hold no lock.
    """
    if sys.platform != "linux" or threading.active_count() != 1 + waiting or _uses_nvidia():
        return False
    deadline = time.monotonic() + _ENDING_S
    while native_threads() != 1 + waiting:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _uses_nvidia() -> bool:
    """Whether this process has opened a GPU: CUDA does not work in its forks."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith(_NVIDIA_DEVICES):
                return True
    return False
