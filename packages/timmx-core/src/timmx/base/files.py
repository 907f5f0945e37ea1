"""Files and folders: their size, whether they can be read and written, and replacing a file as a whole."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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


@contextmanager
def atomic_write(
    path: Path, mode: str = "w", *, newline: str | None = None, errors: str | None = None
) -> Iterator[IO[Any]]:
    """A file to write that replaces `path` when the block ends; if anything fails, `path` stays as it was.

    Missing folders are made. Where `path` is a link, what it points to is replaced. The new file has the permission
    bits of the old one. A device or a pipe, such as `/dev/stdout`, is written to directly.

    Args:
        mode: `w` for text in UTF-8, `wb` for bytes.
        newline: as in `open`.
        errors: as in `open`.

    Raises:
        OSError: it cannot be written there.
    """
    encoding = None if "b" in mode else "utf-8"
    if path.exists() and not path.is_file():
        with path.open(mode, newline=newline, encoding=encoding, errors=errors) as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".timmx-{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        with part.open(mode.replace("w", "x"), newline=newline, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut after the rename can leave an empty file
        with suppress(FileNotFoundError, PermissionError):  # a new file; a file system without these bits
            shutil.copymode(target, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def may_replace(path: Path, flag: str, *starts: bytes) -> bool:
    """Whether `path` may be written: it is no file yet, is empty, or begins like the files that may be replaced.

    Args:
        flag: that named it, for the message.
        starts: lower-case beginnings of such files.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if not path.is_file():
        return True
    try:
        with path.open("rb") as stream:
            head = stream.read(256).lstrip().lower()
    except OSError as exc:
        raise ConfigurationError(
            f"{flag} {path} exists and cannot be read: {exc.strerror or exc}", hint="name a new file"
        ) from exc
    return not head or head.startswith(starts)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one file, through links too; the file does not need to exist."""
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist yet
        return os.path.realpath(one) == os.path.realpath(other)


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
