"""Files and folders: what they weigh, whether they can be read and written."""

from __future__ import annotations

import os
import stat
import tempfile
from typing import TYPE_CHECKING

from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def why_not_in(folder: Path) -> str:
    """Why no file can be written in a folder that may not be there yet; empty where one can. Nothing remains."""
    there = next((place for place in (folder, *folder.absolute().parents) if os.path.lexists(place)), folder)
    if not there.is_dir():
        return f"{there} is a file, not a folder"
    try:
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as exc:
        return f"{there} cannot be written to ({exc.strerror or exc})"


def require_file(path: Path, what: str) -> None:
    """Refuse a path at which there is no file.

    Args:
        what: should be there, as in `an engine`.

    Raises:
        ArtifactError: nothing is there, or a folder.
    """
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, and {what} is a file", hint="name a file")
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}", hint="check the path")


def artifact_size(paths: Iterable[Path]) -> int:
    """Bytes in these files and folders, at any depth. A link is followed where it is named, not in a folder.

    Raises:
        ArtifactError: a path does not exist or cannot be read.
    """
    size_bytes = 0
    for path in paths:
        try:
            size_bytes += _size(path.resolve())
        except OSError as exc:
            raise ArtifactError(
                f"{path} cannot be read: {exc.strerror}", hint="check the path and its permissions"
            ) from exc
    return size_bytes


def _size(path: Path) -> int:
    info = path.lstat()
    if stat.S_ISDIR(info.st_mode):
        return sum(_size(child) for child in path.iterdir())
    return info.st_size if stat.S_ISREG(info.st_mode) else 0
