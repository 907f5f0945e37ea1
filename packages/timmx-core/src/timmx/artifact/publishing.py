"""Atomic publishing of an export: written to a private folder next to the output, then published completely or not.

While an export to `r18.onnx` runs, the folder `.r18.onnx.timmx/` exists next to it:
    lock      held by the export's process; released when it ends
    pid       the process id, for the error of a second export
    new/      where the backend writes; everything in it is published
    old/      the files being replaced, while several files change (`swap.py`)
    journal   the names and hashes of both; see `swap.py`
A file is published by one rename, and a folder by one exchange: at every moment there is the old artifact or the new
one, and nothing has to be restored. Several files, and folders on a file system without exchange, need `swap.py`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout, UnixFileLock

from timmx.artifact.exchange import exchange
from timmx.artifact.swap import JOURNAL, is_folder, read_file, recover, swap, sync, undo
from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from filelock import BaseFileLock


@contextmanager
def staging(output: Path) -> Iterator[Staging]:
    """Lock `output`, recover it if an earlier export was killed, and create a private folder to write to.

    Different spellings of a path share one lock. If `output` is a link, its target is replaced and the link stays.
    Missing parent folders are created, and removed again if nothing is published. Only the output remains, whether
    the block ends, raises or is interrupted.

    Raises:
        ArtifactError: another export to this output is running, it cannot be written there, or its private folder is
            not one that an earlier export left.
    """
    target = Path(os.path.realpath(output))
    private = _private_folder(target)
    lock = FileLock(private / "lock", thread_local=False)
    new_folders: list[Path] = []
    recovered = False
    try:
        with _translate_errors(output):
            _check(output, target)
            _acquire(lock, private, new_folders, output)
            recover(target, private)
            recovered = True
            _clear(private)
            (private / "pid").write_text(str(os.getpid()))
            (private / "new").mkdir()
        renamed = output.is_symlink() or output.name != target.name
        yield Staging(target if renamed else output, private / "new" / target.name, target)
    finally:
        if lock.is_locked:
            _release(lock, target, private, recovered)
        for folder in (private, *reversed(new_folders)):
            with suppress(OSError):  # not empty: something was published there, or another export has started
                folder.rmdir()


def clean_up(output: Path) -> None:
    """Recover an output whose export was killed, as the next export to it would: what was there before stays."""
    if not _private_folder(Path(os.path.realpath(output))).exists():
        return
    with suppress(ArtifactError), staging(output):  # an error: it cannot be written to any more
        pass


@dataclass(frozen=True)
class Staging:
    """A locked output that is being written.

    Attributes:
        output: the artifact's final path: as the user spelled it, or the target of the user's link.
        path: where to write it, in a private folder; everything else in that folder is published too.
    """

    output: Path
    path: Path
    _target: Path

    def clear(self) -> None:
        """Remove what was written so far."""
        for path in self.path.parent.iterdir():
            if is_folder(path):
                shutil.rmtree(path)
            else:
                path.unlink()

    def publish(self, replaces: Sequence[Path] = ()) -> tuple[Path, ...]:
        """Move everything that was written to its final place, and remove the old artifact.

        A file that replaces a file gets its permission bits; others get them from the umask.

        Args:
            replaces: the old artifact's files and folders, all in the output's folder; they may be missing.

        Returns:
            The published paths, the output first.

        Raises:
            ArtifactError: `path` was not written, the file system refuses, or another file or folder would be
                overwritten. The output is unchanged.
        """
        folder, new = self._target.parent, self.path.parent
        with _translate_errors(self.output):
            names = (path.name for path in new.iterdir())
            incoming = sorted(names, key=lambda name: (name != self.path.name, name))
            if self.path.name not in incoming:
                raise ArtifactError(
                    f"the backend did not write {self.path.name}; {self.output} is unchanged",
                    hint="report it to the backend's authors",
                )
            old_names = {self._name(path) for path in replaces}
            for name in incoming:
                # A folder may hold anything: only the old artifact's is replaced, and only by a folder.
                if is_folder(folder / name) and not (name in old_names and is_folder(new / name)):
                    raise ArtifactError(
                        f"{self.output.parent / name} is a folder, not the artifact that is replaced",
                        hint="remove it, or choose another --output",
                    )
                if name not in old_names and name != self.path.name and os.path.lexists(folder / name):
                    raise ArtifactError(
                        f"{self.output.parent / name} exists and is not part of the artifact that is replaced",
                        hint="move it, or choose another --output",
                    )
                _make_durable(new / name, folder / name)
            aside = sorted(name for name in old_names.union(incoming) if os.path.lexists(folder / name))
            if not (incoming == [self.path.name] and set(aside) <= set(incoming) and self._replace()):
                swap(self._target, new.parent, aside, incoming)
            sync(folder)
        return tuple(self.output.parent / name for name in incoming)

    def _name(self, path: Path) -> str:
        """The name of a path to replace in the output's folder."""
        if os.path.realpath(path) == str(self._target):
            return self._target.name
        if path.name in ("", "..") or os.path.realpath(path.parent) != str(self._target.parent):
            raise ArtifactError(f"{path} is not in the folder of {self.output}, so it is not removed")
        return path.name

    def _replace(self) -> bool:
        """Replace the target in one step; False if the system cannot do that."""
        if os.path.lexists(self._target) and (is_folder(self.path) or is_folder(self._target)):
            return exchange(self.path, self._target)
        self.path.replace(self._target)
        return True


def writing(path: Path) -> AbstractContextManager[None]:
    """Replace errors of writing `Staging.path` inside the block by an ArtifactError with a hint.

    Only errors of writing are replaced: a full disk or quota, a read-only file system, a file that is too large,
    errors at a path in the staging folder. Others, such as a checkpoint that cannot be read, pass unchanged.

    Raises:
        ArtifactError: in place of such an OSError.
    """
    return _translate_errors(path.parent.parent.parent / path.name, every=False)


def _private_folder(target: Path) -> Path:
    """The private folder of an output; its name is short enough for any file system (eCryptfs: 143 bytes)."""
    name = os.fsencode(target.name)
    if len(name) > 120:
        short = name[:80].decode(errors="ignore")
        return target.parent / f".{short}-{hashlib.sha256(name).hexdigest()[:16]}.timmx"
    return target.parent / f".{target.name}.timmx"


def _check(output: Path, target: Path) -> None:
    """Check, before any work, that an artifact can be written to the output."""
    if not target.name:
        raise ArtifactError(f"--output {output} does not name a file", hint="add a file name")
    if output.is_symlink() and output.suffix != target.suffix:  # such as a cached blob, named by its hash
        raise ArtifactError(
            f"{output} links to {target}, whose name does not end in {output.suffix}",
            hint="remove the link, or choose another --output",
        )
    with suppress(FileNotFoundError):
        mode = target.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # /dev/null would be replaced by a file
            raise ArtifactError(f"{output} is neither a file nor a folder", hint="choose another --output")


@contextmanager
def _translate_errors(output: Path, every: bool = True) -> Iterator[None]:
    """Convert every OSError to an ArtifactError, or only those that certainly come from writing the output."""
    try:
        yield
    except RecursionError as exc:
        if not every:
            raise
        private = _private_folder(Path(os.path.realpath(output)))
        raise ArtifactError(
            f"cannot write {output}: it or {private} has folders that are nested too deeply",
            hint="remove them, or choose another --output",
        ) from exc
    except OSError as exc:
        target = Path(os.path.realpath(output))
        names = (name for name in (exc.filename, exc.filename2) if not isinstance(name, int | None))
        paths = [Path(os.path.realpath(os.fsdecode(name))) for name in names]
        outside = [path for path in paths if not path.is_relative_to(_private_folder(target))]
        if not every and exc.errno not in _HINTS and outside == paths:
            raise
        path = outside[0] if outside else target.parent  # the private folder is not shown to users
        if exc.errno == errno.ENOTDIR:
            path = next((parent for parent in target.parents if parent.is_file()), path)
        hint = _HINTS.get(exc.errno or 0, "fix that, or choose another --output")
        raise ArtifactError(f"cannot write {output}: {exc.strerror or exc} ({path})", hint=hint) from exc


def _acquire(lock: BaseFileLock, private: Path, new_folders: list[Path], output: Path) -> None:
    """Create the private folder and lock it; created parent folders are added to `new_folders`."""
    error: FileNotFoundError | None = None
    for _ in range(100):
        # An export that ends may remove its folders at the same time: then a path below is missing, and we start
        # again. filelock (>= 3.21) checks for a lock file that was removed before we locked it.
        try:
            parents = (private.parent, *private.parent.parents)
            for folder in reversed([*takewhile(lambda parent: not parent.exists(), parents)]):
                new_folders.append(folder)
                folder.mkdir(exist_ok=True)
            if os.path.lexists(private) and not is_folder(private):
                raise _foreign(private)
            private.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                if not stat.S_ISREG((private / "lock").lstat().st_mode):
                    raise _foreign(private / "lock")
            try:
                lock.acquire(timeout=0.2, poll_interval=0.02)  # long enough for an export that is ending
            except Timeout:
                break
            return
        except FileNotFoundError as exc:
            error = exc
    else:
        if error is not None:  # not another export: a folder such as /proc, where nothing can be created
            raise error
    number = (read_file(private / "pid") or b"").decode(errors="replace")  # it is ending, or has just started
    holder = f" in process {number}" if number.isdecimal() else ""
    raise ArtifactError(
        f"another export to {output} is running{holder}", hint="wait for it, or choose another --output"
    )


def _foreign(path: Path) -> ArtifactError:
    return ArtifactError(f"{path} exists and was not created by timmx", hint="remove it")


def _clear(private: Path) -> None:
    """Delete everything in the private folder except the lock. Without a journal, nothing in it is needed."""
    for path in (private / name for name in ("new", "old", f"{JOURNAL}.part", "pid")):
        if is_folder(path):
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _release(lock: BaseFileLock, target: Path, private: Path, recovered: bool) -> None:
    """Empty the private folder and release the lock; files that cannot be deleted are left to the next export.

    Args:
        recovered: a journal is this export's own, not an earlier one that could not be recovered.
    """
    try:
        with suppress(OSError, ArtifactError, RecursionError):
            if recovered:
                undo(target, private)  # needed only if an interrupt stopped the undoing itself
            if not os.path.lexists(private / JOURNAL):
                _clear(private)
        with suppress(OSError):
            if isinstance(lock, UnixFileLock):
                (private / "lock").unlink()  # while we hold it: later it may belong to another export
    finally:
        lock.release()  # other kinds of lock remove their file here


def _make_durable(path: Path, old: Path) -> None:
    """Set the permissions of a file or folder that replaces `old`, and sync it to disk.

    Renaming a file whose bytes are not on disk yet can leave an empty file after a power cut. A full disk may be
    reported only now.
    """
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return
    # `new` has the umask's bits
    new_mode = mode | path.parent.stat().st_mode & (0o666 if stat.S_ISREG(mode) else 0o777)
    if stat.S_ISREG(mode) and old.is_file():
        new_mode = old.stat().st_mode
    if stat.S_IMODE(mode) != new_mode & 0o777:
        with suppress(PermissionError):  # a file system without permission bits
            path.chmod(new_mode & 0o777)
    if stat.S_ISDIR(mode):
        for child in path.iterdir():
            _make_durable(child, old / child.name)
    sync(path)


_HINTS = {
    errno.ENOSPC: "free some space, or choose another --output",
    errno.EDQUOT: "free some space, or choose another --output",
    errno.EROFS: "choose an --output on another file system",
    errno.EFBIG: "raise the limit (`ulimit -f`), or choose an --output on another file system",
}
