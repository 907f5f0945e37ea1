"""One export's output: written in a private folder beside it, then published whole or not at all.

While an export to `r18.onnx` is alive, `.r18.onnx.timmx/` lies beside it:
    lock      held by the export's process; dies with it
    pid       which process that is, for the message that refuses a second export
    new/      where the backend writes; all that lies in it is published
    old/      what is being replaced, while more than one file changes
    journal   the names of both; as long as it exists, the output is to be put back as it was
Publishing and putting back only rename within one file system, and each step can be seen from where a name
lies. So both can be broken off anywhere and putting back can be repeated, by this run or by the next one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout, UnixFileLock

from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from filelock import BaseFileLock


@contextmanager
def staging(output: Path) -> Iterator[Staging]:
    """Lock `output`, put right what a killed export left, and give a private folder to write it in.

    One output is one place on disk, however it is spelled. Where `output` is a link, what it points to is
    replaced and the link stays. Missing parent folders are made, and removed again if nothing is published.
    Nothing but the output remains, whether the body ends, raises or is interrupted.

    Raises:
        ArtifactError: another export to this output is running, or it cannot be written there.
    """
    target = Path(os.path.realpath(output))
    private = _private_folder(target)
    lock = FileLock(private / "lock", thread_local=False)
    made: list[Path] = []
    try:
        with _explaining(output):
            _check(output, target)
            _acquire(lock, private, made, output)
            _put_back(private)
            _clear(private)
            (private / "pid").write_text(str(os.getpid()))
            (private / "new").mkdir()
        renamed = output.is_symlink() or output.name != target.name
        yield Staging(target if renamed else output, private / "new" / target.name, target)
    finally:
        if lock.is_locked:
            _leave(lock, private)
        for folder in (private, *reversed(made)):
            with suppress(OSError):  # not empty: something was published there, or another export has come
                folder.rmdir()


@dataclass(frozen=True)
class Staging:
    """An output that is locked and being written.

    Attributes:
        output: where the artifact will be: as the user spelled it, or what the user's link points to.
        path: where to write it, in a folder of its own; whatever else lies in that folder is published too.
    """

    output: Path
    path: Path
    _target: Path

    def publish(self, replaces: Sequence[Path] = ()) -> tuple[Path, ...]:
        """Put everything that was written in place, and remove the old artifact.

        A file that goes where a file was takes over its permission bits; else the umask decides.

        Args:
            replaces: the old artifact's files and folders, all in the output's folder; they may be missing.

        Returns:
            What is published, the output first.

        Raises:
            ArtifactError: nothing was written at `path`, the file system refuses, or a folder stands in the
                way: one that `replaces` does not name, or where a file is to go. The output is as it was.
        """
        folder, new = self._target.parent, self.path.parent
        with _explaining(self.output):
            written = (path.name for path in new.iterdir())
            incoming = sorted(written, key=lambda name: (name != self.path.name, name))
            if self.path.name not in incoming:
                raise ArtifactError(
                    f"the backend did not write {self.path.name}; {self.output} is unchanged",
                    hint="report it to the backend's authors",
                )
            named = {self._name(path) for path in replaces}
            for name in incoming:
                # A folder may hold anything: it goes for a folder alone, and only as the old artifact.
                if _is_folder(folder / name) and not (name in named and _is_folder(new / name)):
                    raise ArtifactError(
                        f"{self.output.parent / name} is a folder, not the artifact that is replaced",
                        hint="remove it, or choose another --output",
                    )
                if name not in named and name != self.path.name and os.path.lexists(folder / name):
                    raise ArtifactError(
                        f"{self.output.parent / name} is in the way: it is no part of the artifact that is replaced",
                        hint="move it, or choose another --output",
                    )
                _make_lasting(new / name, folder / name)
            aside = sorted(name for name in named.union(incoming) if os.path.lexists(folder / name))
            one_file = incoming == [self.path.name] and set(aside) <= set(incoming)
            if one_file and not _is_folder(self.path) and not _is_folder(self._target):
                self.path.replace(self._target)
            else:
                self._swap(aside, incoming)
            _sync(folder)
        return tuple(self.output.parent / name for name in incoming)

    def _name(self, path: Path) -> str:
        """The name, in the output's folder, of a path that is to be replaced."""
        if os.path.realpath(path) == str(self._target):
            return self._target.name
        if path.name in ("", "..") or os.path.realpath(path.parent) != str(self._target.parent):
            raise ArtifactError(f"{path} is in another folder than {self.output}, so it is not removed")
        return path.name

    def _swap(self, aside: Sequence[str], incoming: Sequence[str]) -> None:
        """Move the old names out and the new names in. Removing the journal is the moment of success."""
        folder, new, private = self._target.parent, self.path.parent, self.path.parent.parent
        try:
            (private / "old").mkdir()
            part = private / "journal.part"
            part.write_text(json.dumps({"aside": aside, "incoming": incoming}))
            _sync(part)
            part.rename(private / "journal")
            _sync(private)
            for name in aside:
                (folder / name).rename(private / "old" / name)
            for name in incoming:
                (new / name).rename(folder / name)
            _close_journal(private)
        except BaseException:
            _put_back(private)
            raise


def writing(path: Path) -> AbstractContextManager[None]:
    """Around whatever writes `Staging.path`: says what stopped it, with a hint.

    Only what concerns writing is translated: a full disk or quota, a read-only file system, a file that is
    too large, errors at a path in the staging folder. A checkpoint that cannot be read passes unchanged.

    Raises:
        ArtifactError: in place of such an OSError.
    """
    return _explaining(path.parent.parent.parent / path.name, every=False)


def _private_folder(target: Path) -> Path:
    """The same for every export to this output; short enough for any file system (eCryptfs: 143 bytes)."""
    name = os.fsencode(target.name)
    if len(name) > 120:
        short = name[:80].decode(errors="ignore")
        return target.parent / f".{short}-{hashlib.sha256(name).hexdigest()[:16]}.timmx"
    return target.parent / f".{target.name}.timmx"


def _check(output: Path, target: Path) -> None:
    """Refuse, before any work, an output that no artifact can be."""
    if not target.name:
        raise ArtifactError(f"--output {output} does not name a file", hint="add a file name")
    if output.is_symlink() and output.suffix != target.suffix:  # such as a blob in a cache, named by its hash
        raise ArtifactError(
            f"{output} links to {target}, whose name does not end in {output.suffix}",
            hint="remove the link, or choose another --output",
        )
    with suppress(FileNotFoundError):
        mode = target.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # /dev/null would be replaced by a file
            raise ArtifactError(f"{output} is neither a file nor a folder", hint="choose another --output")


@contextmanager
def _explaining(output: Path, every: bool = True) -> Iterator[None]:
    """Turn every OSError into an ArtifactError, or those alone that surely come from writing the output."""
    try:
        yield
    except OSError as exc:
        target = Path(os.path.realpath(output))
        names = (name for name in (exc.filename, exc.filename2) if not isinstance(name, int | None))
        places = [Path(os.path.realpath(os.fsdecode(name))) for name in names]
        outside = [place for place in places if not place.is_relative_to(_private_folder(target))]
        if not every and exc.errno not in _HINTS and outside == places:
            raise
        place = outside[0] if outside else target.parent  # nobody needs to know of the private folder
        if exc.errno == errno.ENOTDIR:
            place = next((parent for parent in target.parents if parent.is_file()), place)
        hint = _HINTS.get(exc.errno or 0, "fix that, or choose another --output")
        raise ArtifactError(f"cannot write {output}: {exc.strerror or exc} ({place})", hint=hint) from exc


def _acquire(lock: BaseFileLock, private: Path, made: list[Path], output: Path) -> None:
    """Make the private folder and lock it; add the parent folders made on the way to `made`."""
    gone: FileNotFoundError | None = None
    for _ in range(100):
        # An export that ends removes its folders while we come: then something below is missing, and we begin
        # anew. A lock file that was removed before we locked it counts for nothing: filelock looks (>= 3.21).
        try:
            parents = (private.parent, *private.parent.parents)
            for folder in reversed([*takewhile(lambda parent: not parent.exists(), parents)]):
                made.append(folder)
                folder.mkdir(exist_ok=True)
            if private.is_symlink() or private.is_file():
                raise ArtifactError(f"{private} is in the way, and timmx did not make it", hint="remove it")
            private.mkdir(exist_ok=True)
            try:
                lock.acquire(timeout=0.2, poll_interval=0.02)  # long enough for one that is just ending
            except Timeout:
                break
            return
        except FileNotFoundError as exc:
            gone = exc
    else:
        if gone is not None:  # nobody's doing: a place such as /proc, where nothing can be made
            raise gone
    holder = ""
    with suppress(OSError):  # it is ending, or has only just begun
        holder = f" in process {(private / 'pid').read_text()}"
    raise ArtifactError(
        f"another export to {output} is running{holder}", hint="wait for it, or choose another --output"
    )


def _put_back(private: Path) -> None:
    """If a publish was broken off, make the output what it was before. Needs the lock. May be repeated."""
    folder, new, old, journal = private.parent, private / "new", private / "old", private / "journal"
    try:
        names = json.loads(journal.read_text())
    except FileNotFoundError:
        return
    for name in names["incoming"]:  # what is no longer in `new` was moved to the output
        if not os.path.lexists(new / name) and os.path.lexists(folder / name):
            (folder / name).rename(new / name)
    for name in names["aside"]:  # what somebody has put there since is theirs, and stays
        if os.path.lexists(old / name) and not os.path.lexists(folder / name):
            (old / name).rename(folder / name)
    _close_journal(private)


def _close_journal(private: Path) -> None:
    """All names are where they belong: make that last, then say so, and make that last too."""
    for folder in (private / "new", private / "old", private.parent):
        _sync(folder)
    (private / "journal").unlink()
    _sync(private)


def _clear(private: Path) -> None:
    """Delete what is in the private folder, except the lock. Nothing in it is needed without a journal."""
    for path in (private / name for name in ("new", "old", "journal.part", "pid")):
        if _is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _leave(lock: BaseFileLock, private: Path) -> None:
    """Give the lock back with nothing left in the private folder; what resists, the next export clears."""
    try:
        with suppress(OSError):
            _put_back(private)  # only where an interrupt broke off the putting back itself
            _clear(private)
            if isinstance(lock, UnixFileLock):
                (private / "lock").unlink()  # while it is ours: later it might be another's
    finally:
        lock.release()  # other kinds of lock remove their file here


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _make_lasting(path: Path, old: Path) -> None:
    """Give what goes where `old` is the permissions that it should have, and write it through to the disk.

    Renaming a file whose bytes are not on the disk yet can leave an empty one after a power cut. And a disk
    that is full may say so only now.
    """
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return
    wanted = mode | path.parent.stat().st_mode & (0o666 if stat.S_ISREG(mode) else 0o777)  # `new` has umask's
    if stat.S_ISREG(mode) and old.is_file():
        wanted = old.stat().st_mode
    if stat.S_IMODE(mode) != wanted & 0o777:
        with suppress(PermissionError):  # a file system without permission bits
            path.chmod(wanted & 0o777)
    if stat.S_ISDIR(mode):
        for child in path.iterdir():
            _make_lasting(child, old / child.name)
    _sync(path)


def _sync(path: Path) -> None:
    """Write a file's bytes through to the disk; a folder's names where that is possible."""
    # Windows and some network file systems cannot for folders; only a power cut would tell.
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_HINTS = {
    errno.ENOSPC: "free some space, or choose another --output",
    errno.EDQUOT: "free some space, or choose another --output",
    errno.EROFS: "choose an --output on another file system",
    errno.EFBIG: "raise the limit (`ulimit -f`), or choose an --output on another file system",
}
