"""Files and folders: size, read and write access, and atomic writing."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import platformdirs

from timmx.base.reading import open_file, special_kind
from timmx.base.strict_json import brief
from timmx.base.text import path_problem
from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def cache_folder(kind: str) -> Path:
    """The folder of the user's cache for files of this kind; it may not exist yet."""
    return platformdirs.user_cache_path("timmx", appauthor=False) / kind


def why_not_in(folder: Path) -> str:
    """The reason why no file can be written in a folder, which need not exist yet; empty if one can."""
    existing = next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), folder)
    if not existing.is_dir():
        return f"{existing} is a file, not a folder"
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as exc:
        return f"{existing} cannot be written to ({exc.strerror or exc})"


@contextmanager
def atomic_write(
    path: Path, mode: str = "w", *, newline: str | None = None, errors: str | None = None
) -> Iterator[IO[Any]]:
    """Open a file for writing that replaces `path` when the block ends; if anything fails, `path` is unchanged.

    Missing folders are created. If `path` is a link, its target is replaced. The new file has the permission
    bits of the old one. A device or a pipe, such as `/dev/stdout`, is written to directly.

    Args:
        path: the file.
        mode: `w` for text in UTF-8, `wb` for bytes.
        newline: see `open`.
        errors: see `open`.

    Raises:
        OSError: the file cannot be written there.
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
            os.fsync(file.fileno())  # otherwise a power cut after the rename can leave an empty file
        with suppress(FileNotFoundError, PermissionError):  # a new file; a file system without these bits
            shutil.copymode(target, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def may_replace(path: Path, flag: str, *starts: bytes) -> bool:
    """Whether `path` may be written: it does not exist, is empty, or starts like a file that may be replaced.

    Args:
        path: the file.
        flag: the option that named it, for the message.
        starts: first bytes of files that may be replaced, in lower case.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if not path.is_file():
        return True
    try:
        with open_file(path) as stream:
            head = stream.read(256).lstrip().lower()
    except OSError as exc:
        raise ConfigurationError(
            f"{flag} {path} exists and cannot be read: {exc.strerror or exc}", hint="name a new file"
        ) from exc
    return not head or head.startswith(starts)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths name the same file, links resolved; the file does not need to exist."""
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist yet
        return os.path.realpath(one) == os.path.realpath(other)


def check_path(path: object, flag: str = "") -> None:
    """Check that a file system can have a path.

    Args:
        path: the path.
        flag: the option that named it, for the message.

    Raises:
        ConfigurationError: it contains a NUL character, or is too long.
    """
    problem = path_problem(path)
    if problem:
        raise ConfigurationError(
            f"{flag} {brief(str(path))} is not a path: {problem}".lstrip(), hint="use another name"
        )


def require_file(path: Path, what: str) -> None:
    """Raise an error if `path` is not a file.

    Args:
        path: the path.
        what: what it should be, such as `an engine`.

    Raises:
        ArtifactError: the path does not exist, or is a folder, a pipe, a socket or a device.
    """
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, and {what} is a file", hint="name a file")
    if not path.exists():
        raise ArtifactError(f"{path} does not exist", hint="check the path")
    if kind := special_kind(path):
        raise ArtifactError(f"{path} is {kind}, and {what} is a file", hint="name a file")


def require_artifact(path: Path) -> None:
    """Check that an artifact is a file, or a folder of files, before a runtime opens it by its name.

    A runtime would wait for the other end of a pipe, and read a device until memory is exhausted.

    Raises:
        ArtifactError: it does not exist, or it is or contains a pipe, a socket or a device.
    """
    if not path.exists():
        raise ArtifactError(f"{path} does not exist", hint="check the path")
    for item in (path, *walk(path)):
        try:
            kind = special_kind(item)
        except OSError:  # a link to nothing
            continue
        if kind:
            raise ArtifactError(
                f"{item} is {kind}, not a file", hint="copy the artifact again, as files, or export it again"
            )


def walk(folder: Path, *, follow_links: bool = False) -> Iterator[Path]:
    """Everything below a folder; nothing if it is not a folder or cannot be read.

    Args:
        folder: the folder.
        follow_links: search folders that links lead to, but not inside themselves, and each at most 100 times.

    Raises:
        ArtifactError: folders are nested too deeply; `Path.rglob` ends with a RecursionError then.
    """
    level: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())] if folder.is_dir() else []
    visits: Counter[tuple[int, int]] = Counter()
    for _ in range(_MOST_LEVELS):
        below = []
        for parent, outer in level:
            with suppress(FileNotFoundError, PermissionError), os.scandir(parent) as entries:
                if follow_links:
                    info = parent.stat()
                    identity = info.st_dev, info.st_ino
                    visits[identity] += 1
                    if identity in outer or visits[identity] > _MOST_VISITS:
                        continue
                    outer |= {identity}
                for entry in entries:
                    path = parent / entry.name
                    yield path
                    if entry.is_dir(follow_symlinks=follow_links):
                        below.append((path, outer))
        level = below
    if level:
        raise ArtifactError(
            f"{folder} has folders that are nested more than {_MOST_LEVELS} levels deep",
            hint="remove them, or name another folder",
        )


_MOST_VISITS = 100
_MOST_LEVELS = 100


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits.

    A large file is hashed once per process, and again if its size, its time of change or its inode is another one.

    Raises:
        ArtifactError: it is not a file.
        OSError: it cannot be read.
    """
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise ArtifactError(f"{path} is not a file", hint="check the path")
    if info.st_size < _LARGE_BYTES:
        return _sha256(path)
    return _sha256_of_state(path, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


_LARGE_BYTES = 2**26
"""Hashing takes a tenth of a second: longer than the resolution of a file's times."""


@lru_cache(maxsize=64)
def _sha256_of_state(path: Path, *state: int) -> str:
    return _sha256(path)


def _sha256(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_companion(path: Path, companion: Path, expected: str) -> None:
    """Refuse an artifact whose second file is not the one that it was written with.

    Args:
        path: the artifact.
        companion: the second file.
        expected: its SHA-256, which the artifact states.

    Raises:
        ArtifactError: the second file is missing, or has another content.
    """
    hint = "copy both files together, or export it again"
    try:
        content = sha256(companion)
    except FileNotFoundError:
        raise ArtifactError(
            f"{companion} is missing, and {path.name} needs it",
            hint=f"copy {companion.name} into the folder of {path.name}, or export it again",
        ) from None
    except OSError as exc:
        raise ArtifactError(
            f"{companion} cannot be read: {exc.strerror or exc}", hint="check its permissions"
        ) from exc
    if content != expected:
        raise ArtifactError(
            f"{companion} is not the file that {path.name} was written with: it was changed or replaced",
            hint=hint,
        )


def artifact_size(paths: Iterable[Path]) -> int:
    """Total size in bytes of these files and folders. A link in `paths` is followed, a link in a folder is not.

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
