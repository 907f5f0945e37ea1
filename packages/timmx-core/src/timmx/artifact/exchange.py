"""Exchanges two paths in one step, where the operating system and the file system support it."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_AT_FDCWD = -100
_SWAP = 2
"""RENAME_EXCHANGE of Linux's renameat2, and RENAME_SWAP of macOS's renamex_np."""

_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(one: Path, other: Path) -> bool:
    """Exchange two files or folders of one file system, so that neither name is ever missing.

    Returns:
        False if the system or the file system does not support it (Windows, NFS); then nothing has changed.

    Raises:
        OSError: it is supported, and failed.
    """
    call = _system_call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@cache
def _system_call() -> Callable[[bytes, bytes], int] | None:
    name = {"linux": "renameat2", "darwin": "renamex_np"}.get(sys.platform)
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None) if name else None
    if function is None:  # Windows, or a C library without it
        return None
    path, flags = ctypes.c_char_p, ctypes.c_uint
    if name == "renamex_np":
        function.argtypes = (path, path, flags)
        return lambda one, other: int(function(one, other, _SWAP))
    function.argtypes = (ctypes.c_int, path, ctypes.c_int, path, flags)
    return lambda one, other: int(function(_AT_FDCWD, one, _AT_FDCWD, other, _SWAP))
