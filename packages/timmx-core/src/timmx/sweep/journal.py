"""The journal of a sweep: one JSON line per cell, synced, from which an interrupted sweep continues.

The first line names the kind and the schema. Each run adds a line with its plan, and each cell a line with its result;
the last line of a cell counts. A line is valid once its newline is written: an incomplete last one is ignored, and
removed by the next run.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout, UnixFileLock

from timmx.base import brief, open_file, parse_json, special_kind, why_not_in
from timmx.errors import ArtifactError, ConfigurationError
from timmx.sweep.cell import Cell, InvalidCell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

JOURNAL_NAME = "sweep.jsonl"
_LOCK_NAME = ".timmx-sweep-lock"
_KIND, SCHEMA = "timmx sweep", 1
_LONGEST_LINE = 64 * 10**6
"""A run of 100,000 models states their names in one line of 3 MB."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a sweep: what it was asked for, and where.

    Attributes:
        command: the command line.
        started: ISO 8601 in UTC.
        machine: facts of the machine and its versions, for the report.
        plan: see `SweepPlan.to_json`.
    """

    command: str
    started: str
    machine: Mapping[str, str] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "command": self.command,
            "started": self.started,
            "machine": dict(self.machine),
            "plan": dict(self.plan),
        }

    @classmethod
    def from_json(cls, content: Any) -> Run:
        """A run from JSON values.

        Raises:
            InvalidCell: a value is missing or has another type.
        """
        if not isinstance(content, dict):
            raise InvalidCell(f"{brief(content)} is not a run")
        for name, kind in (("command", str), ("started", str), ("machine", dict), ("plan", dict)):
            if not isinstance(content.get(name), kind):
                raise InvalidCell(f"{name} is {brief(content.get(name))}")
        if not all(isinstance(value, str) for value in content["machine"].values()):
            raise InvalidCell("machine has a value that is not text")
        return cls(
            command=content["command"],
            started=content["started"],
            machine=content["machine"],
            plan=content["plan"],
        )


class Journal:
    """The journal of a folder, locked for this run; a context manager.

    Args:
        folder: the sweep's folder; created if it is missing.
        resume: continue an existing journal; otherwise there must be none.

    Raises:
        ConfigurationError: there is a journal and `resume` is False, it is not a journal or is damaged, another version
            wrote it, or another sweep is writing it. The file is left unchanged.
        ArtifactError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self.folder, self.path = folder, folder / JOURNAL_NAME
        self._unwritten: list[bytes] = []
        self._stream: IO[bytes] | None = None
        if folder.exists() and not folder.is_dir():
            raise ConfigurationError(f"--output {folder} is a file, not a folder", hint="name a folder")
        problem = why_not_in(folder)
        if problem:
            raise ArtifactError(f"--output {folder}: {problem}", hint="choose another folder")
        self._lock = FileLock(folder / _LOCK_NAME)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._acquire_lock()
            if not resume and os.path.lexists(self.path):
                raise ConfigurationError(
                    f"{folder} has the journal of a sweep",
                    hint="continue it with --resume, or choose another folder",
                )
            if kind := special_kind(self.path) if self.path.exists() else "":
                raise ConfigurationError(f"{self.path} is {kind}", hint="remove it")
            self._open()
        except OSError as exc:
            self.close()
            raise ArtifactError(
                f"{exc.filename or self.path} cannot be written: {exc.strerror or exc}",
                hint="choose another folder with --output",
            ) from exc
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def unwritten(self) -> int:
        """Number of lines that could not be written yet, as on a full disk."""
        return len(self._unwritten)

    def add_run(self, run: Run) -> None:
        """Add a run."""
        self._add({"run": run.to_json()})

    def add(self, cell: Cell) -> None:
        """Add a cell. If the disk is full, it is written with the next one."""
        self._add({"cell": cell.to_json()})

    def close(self) -> None:
        """Write what could not be written before, and unlock the folder."""
        if self._stream is not None:
            self._write()
            self._stream.close()
            self._stream = None
        if self._lock.is_locked and isinstance(self._lock, UnixFileLock):
            with suppress(OSError):  # while the lock is held; on other systems filelock removes the file
                os.unlink(self._lock.lock_file)  # noqa: PTH108 - a str or a Path
        self._lock.release()

    def _acquire_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as exc:
            raise ConfigurationError(
                f"another sweep is writing to {self.folder}",
                hint="wait until it ends, or choose another folder",
            ) from exc
        except NotImplementedError:  # a file system without locks
            return

    def _open(self) -> None:
        if self.path.exists():
            end = _end_of_lines(self.path)
            if end:
                for _ in read_lines(
                    self.path
                ):  # a journal of another version or a damaged one is refused here
                    pass
            elif not _starts_a_journal(self.path):
                raise _not_a_journal(self.path)
            self._stream = self.path.open("r+b", buffering=0)
            self._stream.truncate(end)
            self._stream.seek(end)
        else:
            self._stream = self.path.open("xb", buffering=0)
            end = 0
        if not end:
            self._stream.write(_line(_HEADER))
            os.fsync(self._stream.fileno())

    def _add(self, entry: Mapping[str, Any]) -> None:
        self._unwritten.append(_line(entry))
        self._write()

    def _write(self) -> None:
        """Append all lines that are not in the file yet; if that fails, the file stays as it was."""
        stream = self._stream
        assert stream is not None, "the journal is open"
        start = stream.tell()
        content = b"".join(self._unwritten)
        try:
            while content:
                content = content[stream.write(content) :]
            os.fsync(stream.fileno())
        except OSError:  # a full disk or quota: the sweep continues, and the next cell tries again
            with suppress(OSError):
                stream.truncate(start)
            stream.seek(start)
        else:
            self._unwritten.clear()


_HEADER = {"journal": _KIND, "schema": SCHEMA}


def read_lines(path: Path) -> Iterator[Run | Cell]:
    """The runs and cells of a journal, in order; an incomplete last line is left out.

    Raises:
        ConfigurationError: it cannot be read, is not a journal, is damaged, or another version wrote it.
    """
    try:
        with open_file(path) as stream:
            header = stream.readline(_LONGEST_LINE)
            _check_header(path, header)
            number = 1
            while line := stream.readline(_LONGEST_LINE):
                number += 1
                if not line.endswith(b"\n"):
                    if len(line) >= _LONGEST_LINE:
                        raise _damaged(path, number, "it is too long")
                    return
                try:
                    yield _parse(line)
                except (ValueError, InvalidCell) as exc:
                    raise _damaged(path, number, str(exc)) from exc
    except OSError as exc:
        raise ConfigurationError(
            f"{path} cannot be read: {exc.strerror or exc}", hint="check the path and its permissions"
        ) from exc


def journal_of(folder: Path) -> Path:
    """The journal in a folder.

    Raises:
        ConfigurationError: there is none.
    """
    path = folder / JOURNAL_NAME
    if not path.is_file():
        what = "has no journal of a sweep" if folder.is_dir() else "is not a folder"
        if not folder.exists():
            what = "does not exist"
        raise ConfigurationError(
            f"{folder} {what}", hint="name the folder that was given to timmx sweep with --output"
        )
    return path


def _parse(line: bytes) -> Run | Cell:
    content = parse_json(line, any_name=True)
    if isinstance(content, dict) and content.keys() == {"run"}:
        return Run.from_json(content["run"])
    if isinstance(content, dict) and content.keys() == {"cell"}:
        return Cell.from_json(content["cell"])
    raise InvalidCell("it is neither a run nor a cell")


def _check_header(path: Path, line: bytes) -> None:
    try:
        header = parse_json(line)
        kind, schema = header["journal"], header["schema"]
    except (ValueError, LookupError, TypeError):
        raise _not_a_journal(path) from None
    if kind != _KIND or not line.endswith(b"\n"):
        raise _not_a_journal(path)
    if schema != SCHEMA:
        raise ConfigurationError(
            f"{path} has schema {brief(schema)}, and this timmx reads schema {SCHEMA}",
            hint="use the timmx that wrote it, or choose another folder",
        )


def _not_a_journal(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is not the journal of a sweep, and is left unchanged", hint="choose another folder"
    )


def _damaged(path: Path, number: int, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is damaged in line {number}: {reason}",
        hint="remove that line and resume the sweep, or choose another folder",
    )


def _starts_a_journal(path: Path) -> bool:
    """Whether a file without a newline is empty, or the start of a header."""
    with open_file(path) as stream:
        return _line(_HEADER).startswith(stream.read(4096))


def _end_of_lines(path: Path) -> int:
    """The position after the last newline."""
    with open_file(path) as stream:
        position = stream.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 2**16)
            stream.seek(start)
            last = stream.read(position - start).rfind(b"\n")
            if last >= 0:
                return start + last + 1
            position = start
    return 0


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=True).encode() + b"\n"
