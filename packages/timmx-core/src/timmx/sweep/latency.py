"""`timmx sweep --bench`: the latency of each kept file, one after another, so that nothing disturbs a measurement."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.base import Reporter, reporting
from timmx.errors import TimmxError
from timmx.report import environment
from timmx.sweep.storage import Storage
from timmx.sweep.watching import Running, Watcher
from timmx.tools.bench import bench

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from timmx.sweep.cell import Cell

_SECONDS = 1.0
"""How long each file is measured, without its process and its warm-up: the ten rounds that an interval needs."""

_NOT_MEASURED = "latency was not measured: "


def measure_latencies(
    cells: Iterable[Cell], places: Collection[tuple[str, str]], folder: Path, storage: str, watcher: Watcher
) -> Iterator[Cell]:
    """Measure the files of cells that this machine has not measured; each cell is yielded with its figures.

    Args:
        cells: of a journal.
        places: which of them to measure.
        folder: of the sweep.
        storage: the URL of the files; empty if they are in the folder.
        watcher: is called with what is running.
    """
    processor = environment()["processor"]
    todo: dict[str, list[Cell]] = {}
    for cell in cells:
        measured = cell.latency_ms is not None and cell.latency_on == processor
        if cell.place in places and cell.status.passed and cell.file and not measured:
            todo.setdefault(cell.file.partition("/")[0], []).append(cell)
    for name, some in todo.items():
        with ExitStack() as stack:
            try:
                root = stack.enter_context(_local(name, folder, storage))
            except TimmxError as exc:
                yield from (_unmeasured(cell, exc.message) for cell in some)
                continue
            for cell in some:
                yield _measured(cell, root / cell.file, processor, watcher)


@contextmanager
def _local(name: str, folder: Path, storage: str) -> Iterator[Path]:
    """The folder that has the files of a model on this machine; those of a storage are copied."""
    if not storage:
        yield folder
        return
    root = Path(tempfile.mkdtemp(prefix="timmx-bench-"))
    try:
        Storage(storage).get(name, root / name)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _measured(cell: Cell, path: Path, processor: str, watcher: Watcher) -> Cell:
    notes = [note for note in cell.notes if not note.startswith(_NOT_MEASURED)]
    try:
        with reporting(_Steps(cell, watcher)):
            (case,) = bench([path], seconds=_SECONDS).cases
        error = case.error
    except TimmxError as exc:
        error = exc.message
    if error or case.p50_ms is None or case.p90_ms is None:
        return _unmeasured(cell, error)
    if case.engine:
        notes.append(case.stand_in)
    return replace(
        cell,
        latency_ms=round(case.p50_ms, 4),
        latency_p90_ms=round(case.p90_ms, 4),
        latency_on=processor,
        notes=tuple(dict.fromkeys(notes)),
    )


def _unmeasured(cell: Cell, reason: str | None) -> Cell:
    notes = [note for note in cell.notes if not note.startswith(_NOT_MEASURED)]
    return replace(cell, notes=(*notes, f"{_NOT_MEASURED}{reason}"))


class _Steps(Reporter):
    """Shows what is measured. Warnings about one file would be repeated for each."""

    def __init__(self, cell: Cell, watcher: Watcher) -> None:
        self._cell, self._watcher, self._start = cell, watcher, time.monotonic()

    def step(self, text: str) -> None:
        self.advance(text, 0.0)

    def advance(self, text: str, share: float) -> None:
        seconds = time.monotonic() - self._start
        self._watcher.running(
            [
                Running(
                    model=self._cell.model,
                    target=self._cell.target,
                    step="Measuring latency",
                    seconds=seconds,
                )
            ]
        )
