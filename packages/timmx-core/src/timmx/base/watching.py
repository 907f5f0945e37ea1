"""Names the open runtime to the process that watches this one, for the message if this process crashes."""

from __future__ import annotations

import os
from contextlib import suppress

WATCHER = "TIMMX_WATCHER"
"""The environment variable in a watched process: a descriptor and the id of the process that watches."""


def watcher() -> int | None:
    """The descriptor to the process that watches this one; None if none does.

    Processes that a watched process starts inherit the variable, but have another parent.
    """
    descriptor, _, parent = os.environ.get(WATCHER, "").partition(":")
    if not descriptor.isdecimal() or parent != str(os.getppid()):
        return None
    return int(descriptor)


def announce(runtime: str, file: str) -> None:
    """Say that a runtime is about to open a file.

    Args:
        runtime: the name of the runtime.
        file: the name of the file.
    """
    descriptor = watcher()
    if descriptor is not None:
        with suppress(OSError):
            os.write(descriptor, f"{runtime}\t{file}\n".encode(errors="replace"))
