"""Opens and reads files by name: regular files only, so that a pipe or a device neither blocks nor never ends."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from timmx.base.text import size_text

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path


class NotRegularFile(OSError):  # noqa: N818 - its text completes "cannot be read: "
    """The path names a pipe, a socket or a device."""


_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


def special_kind(path: Path, *, follow_links: bool = True) -> str:
    """What a path is if it is neither a file nor a folder, such as `a pipe`; empty if it is one of them.

    Raises:
        OSError: it does not exist.
    """
    return _kind(path.stat(follow_symlinks=follow_links).st_mode)


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def open_file(path: Path, *, follow_links: bool = True) -> BufferedReader:
    """Open a regular file for reading bytes.

    Anything else is not opened: a pipe would wait for its other end, a device may never end, and opening some
    devices has effects.

    Raises:
        NotRegularFile: it is a pipe, a socket or a device; or a link that is not followed.
        OSError: it does not exist, is a folder, or cannot be read.
    """
    _require_regular(path.stat(follow_symlinks=follow_links).st_mode, path)
    # It may be replaced meanwhile: opening a pipe does not wait, and the descriptor is what is judged.
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY"))
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    # One object owns the descriptor: closing it a second time after a signal would raise another error.
    file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115
    try:
        _require_regular(os.fstat(file.fileno()).st_mode, path)
    except BaseException:
        file.close()
        raise
    return file


def _require_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind := _kind(mode):
        raise NotRegularFile(errno.EINVAL, f"it is {kind}, not a file", str(path))


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        most: its maximum size in bytes; a larger one is not read.

    Raises:
        NotRegularFile, OSError: see `open_file`; `errno.EFBIG` if it is larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > most else file.read(size + 1)
        if len(content) > size:  # it grows, or is a file of /proc, which has no size
            content += file.read(most + 1 - size)
            size = len(content)
    if size > most:
        text = f"it has {size_text(size)}, and at most {size_text(most)} are read"
        raise OSError(errno.EFBIG, text, str(path))
    return content
