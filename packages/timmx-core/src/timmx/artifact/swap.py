"""Replaces several files together, under a journal that an interrupted publish is completed or undone by.

The order: the old companions are moved to `old/`, the artifact itself is replaced, the new companions are moved in. So
an artifact is never next to the companion of another one, not even for programs that do not check it. A process that
is killed in between leaves the old or the new artifact without its companion; the next export to this output puts the
companion back. The artifact itself is missing only for a moment, and only where it cannot be exchanged.

The journal may have been planted: someone who can put a folder next to an output can write anything into it. Hence it
names files of this output only, states the SHA-256 of each, and is used only to move files with these hashes to names
that do not exist. Nothing is overwritten or deleted, and no link is followed.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from timmx.artifact.exchange import exchange
from timmx.base import NotRegularFile, open_file, parse_json
from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import BufferedReader
    from pathlib import Path

JOURNAL = "journal"
"""Name of the journal in the private folder; while it exists, the files in that folder may be the only copies."""

_MAX_BYTES = 2**16


@dataclass(frozen=True)
class _Journal:
    """SHA-256 by name of everything that is replaced, and of everything that replaces it."""

    old: dict[str, str]
    new: dict[str, str]


def swap(target: Path, private: Path, old: Iterable[str], new: Iterable[str]) -> None:
    """Replace files and folders next to `target`; if that fails, they are as before.

    Args:
        target: the artifact.
        private: its private folder, with the new files in `new/`.
        old: names of existing files and folders that are replaced or removed.
        new: names of the new ones, `target.name` among them.
    """
    folder, main, incoming, outgoing = target.parent, target.name, private / "new", private / "old"
    try:
        outgoing.mkdir()
        journal = _Journal(
            {name: _sha256(folder / name) for name in old}, {name: _sha256(incoming / name) for name in new}
        )
        part = private / f"{JOURNAL}.part"
        part.write_text(json.dumps(asdict(journal)))
        sync(part)
        part.rename(private / JOURNAL)
        sync(private)
        for name in sorted(journal.old.keys() - {main}):
            (folder / name).rename(outgoing / name)
        if main not in journal.old:
            (incoming / main).rename(target)
        elif not exchange(incoming / main, target):
            target.rename(outgoing / main)
            (incoming / main).rename(target)
        for name in sorted(journal.new.keys() - {main}):
            (incoming / name).rename(folder / name)
        _close(private)
    except BaseException:
        undo(target, private)
        raise


def undo(target: Path, private: Path) -> None:
    """Undo what `swap` has done in this process. Can be repeated if it was interrupted itself."""
    journal = _read(target, private)
    if journal is None:
        return
    folder, main, incoming, outgoing = target.parent, target.name, private / "new", private / "old"
    if _sha256(target) == journal.new[main]:  # if the old one has the same content, this changes nothing
        for name in journal.new.keys() - {main}:
            if os.path.lexists(folder / name) and not os.path.lexists(incoming / name):
                (folder / name).rename(incoming / name)
        if main not in journal.old or os.path.lexists(outgoing / main):
            target.rename(incoming / main)
        else:
            exchange(target, incoming / main)
    for name in journal.old:  # a file that was created there since then is kept
        if os.path.lexists(outgoing / name) and not os.path.lexists(folder / name):
            (outgoing / name).rename(folder / name)
    _close(private)


def recover(target: Path, private: Path) -> None:
    """Complete or undo the swap of a process that was killed, by moving set-aside files to names that do not exist.

    Raises:
        ArtifactError: the journal is not one of this output, is damaged, or does not match the files; nothing has
            changed.
    """
    journal = _read(target, private)
    if journal is None:
        return
    if _sha256(target) == journal.new[target.name]:
        source, hashes = private / "new", journal.new
    else:
        source, hashes = private / "old", journal.old
    missing = [name for name in hashes if not os.path.lexists(target.parent / name)]
    for name in missing:
        if not is_folder(source) or not hashes[name] or _sha256(source / name) != hashes[name]:
            raise _refusal(target, private, f"it does not match {name} in {source.name}/")
    for name in missing:
        (source / name).rename(target.parent / name)
    _close(private)


def _sha256(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents in a folder; empty for anything else, such as a link."""
    with suppress(FileNotFoundError):
        if is_folder(path):
            total = hashlib.sha256()
            for child in sorted(path.iterdir()):
                content = f"link {child.readlink()}" if child.is_symlink() else _sha256(child)
                total.update(os.fsencode(f"{child.name}\n{content}\n"))
            return total.hexdigest()
        with _open_file(path) or nullcontext() as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if file else ""
    return ""


def is_folder(path: Path) -> bool:
    """Whether this is a folder, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def sync(path: Path) -> None:
    """Sync a file to disk, or a folder's names if the file system supports it."""
    # Windows and some network file systems do not support it for folders; only a power cut would show.
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_file(path: Path) -> bytes | None:
    """The first 64 KiB of a file; None if it does not exist, or is anything but a file. Links are not followed."""
    with suppress(FileNotFoundError):
        file = _open_file(path)
        if file is not None:
            with file:
                return file.read(_MAX_BYTES)
    return None


def _open_file(path: Path) -> BufferedReader | None:
    """A file opened for reading; None for a link, a pipe, a device or a folder."""
    try:
        return open_file(path, follow_links=False)
    except (NotRegularFile, IsADirectoryError):
        return None


def _read(target: Path, private: Path) -> _Journal | None:
    """The journal; None if there is none.

    Raises:
        ArtifactError: it is damaged, or not one of this output.
    """
    path = private / JOURNAL
    if not os.path.lexists(path):
        return None
    content = read_file(path)
    if content is None:
        raise _refusal(target, private, "it is not a file")
    try:
        journal = _Journal(**parse_json(content, any_name=True))
        names = [*journal.old, *journal.new]
        hashes = [*journal.old.values(), *journal.new.values()]
    except (ValueError, TypeError, AttributeError) as exc:
        raise _refusal(target, private, "it is damaged") from exc
    if target.name not in journal.new or not all(isinstance(value, str) for value in hashes):
        raise _refusal(target, private, "it is damaged")
    for name in names:
        if name != target.name and not (name.startswith(f"{target.stem}.") and _is_plain(name)):
            raise _refusal(target, private, f"{name!r} is not a file of this output")
    return journal


def _is_plain(name: str) -> bool:
    """Whether a name, which is not empty, names something in a folder itself."""
    return not any(character in name for character in ("/", "\\", "\0")) and name not in (".", "..")


def _refusal(target: Path, private: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{private / JOURNAL} is not the journal of an interrupted export to {target.name}: {reason}. "
        "Nothing was changed",
        hint=f"copy what you need from {private}, remove it, and try again",
    )


def _close(private: Path) -> None:
    """Sync all folders, remove the journal, and sync its removal."""
    for folder in (private / "new", private / "old", private.parent):
        if is_folder(folder):  # someone else's journal may come without them
            sync(folder)
    (private / JOURNAL).unlink()
    sync(private)
