"""Runs the cells of a sweep in children, within limits of time and memory."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from timmx.artifact import clean_up
from timmx.base import can_measure_processes, size_text
from timmx.errors import TimmxError
from timmx.exporting import Target, plan_separately
from timmx.sweep.cell import CellStatus
from timmx.sweep.task import Event
from timmx.sweep.watching import Running, Watcher

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

    from timmx.processes import Child
    from timmx.sweep.cell import Cell
    from timmx.sweep.rows import Rows
    from timmx.sweep.task import Task

_TICK_S = 0.25
"""How often memory is measured and limits are checked."""


@dataclass(frozen=True)
class Limits:
    """Limits of one cell.

    Attributes:
        seconds: wall time; also of loading the model.
        memory_bytes: resident memory of its process, with the formats of the model that ran there before.
    """

    seconds: float | None = None
    memory_bytes: int | None = None


NO_LIMITS = Limits()


class Launcher(Protocol):
    """Starts children and waits for them; `ProcessLauncher` is one."""

    def start(self, task: Task) -> Child:
        """Start a child."""

    def wait(self, children: Sequence[Child], seconds: float) -> None:
        """Wait until a child reports something or ends, at most this long."""


@dataclass(kw_only=True)
class _Job:
    """A child and what it is doing.

    Attributes:
        task: what the child does.
        child: the process.
        todo: numbers of the cells that have not ended.
        cell: number of the running cell; None while the model is loaded.
        step: what it is doing.
        started: when the running cell, or loading, started; of `time.monotonic`.
        peak_bytes: largest memory since then.
        first: whether no cell has run in this child before.
        facts: values of `Cell` that all cells of the model have.
    """

    task: Task
    child: Child
    todo: list[int]
    cell: int | None = None
    step: str = ""
    started: float = field(default_factory=time.monotonic)
    peak_bytes: int | None = None
    first: bool = True
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long the running cell, or loading, has taken."""
        return time.monotonic() - self.started


class Driver:
    """Runs tasks of a plan in child processes of this one.

    Args:
        rows: makes the cells.
        launcher: starts children.
        limits: of each cell.
        jobs: number of models that are exported at once.
        watcher: is called with what is running.
    """

    def __init__(
        self,
        rows: Rows,
        launcher: Launcher,
        *,
        limits: Limits = NO_LIMITS,
        jobs: int = 1,
        watcher: Watcher | None = None,
    ) -> None:
        self._rows, self._launcher = rows, launcher
        self._limits, self._jobs = limits, jobs
        self._watcher = watcher or Watcher()
        self._measures = can_measure_processes()
        self._again: deque[Task] = deque()
        self._ended: deque[Cell] = deque()

    def run(self, tasks: Iterable[Task]) -> Generator[Cell]:
        """Run all cells of tasks; each cell is yielded when it has ended.

        Close the iterator if it is not exhausted, which ends the children.
        """
        ahead = iter(tasks)
        running: list[_Job] = []
        try:
            while True:
                while len(running) < self._jobs and (job := self._next(ahead)) is not None:
                    running.append(job)
                if not running:
                    return
                self._launcher.wait([job.child for job in running], _TICK_S)
                for job in tuple(running):
                    if self._advance(job):
                        running.remove(job)
                    while self._ended:
                        yield self._ended.popleft()
                self._watcher.running([self._shown(job) for job in running])
        finally:
            for job in running:
                job.child.end()
                self._clear(job, job.todo)

    def _shown(self, job: _Job) -> Running:
        return Running(
            model=job.task.model.label,
            target="" if job.cell is None else self._rows.columns[job.cell],
            step=job.step,
            seconds=job.seconds,
            memory_bytes=job.peak_bytes,
        )

    def _next(self, ahead: Iterator[Task]) -> _Job | None:
        """Start the next task: first the rest of a model whose child has ended."""
        task = self._again.popleft() if self._again else next(ahead, None)
        if task is None:
            return None
        return _Job(
            task=task,
            child=self._launcher.start(task),
            todo=list(task.todo),
            step="Starting",
            facts={"family": self._rows.family(task.model)},
        )

    def _advance(self, job: _Job) -> bool:
        """Take what a child has reported, and check its limits.

        Returns:
            Whether the child has ended.
        """
        for event, values in job.child.messages():
            self._take(job, event, values)
        reason = job.child.ending()
        if reason is not None:
            for event, values in job.child.messages():
                self._take(job, event, values)
            self._end(job, CellStatus.CRASHED, reason or "its process ended without a result")
            return True
        if self._measures:
            now = job.child.memory_bytes()
            if now is not None:
                job.peak_bytes = max(now, job.peak_bytes or 0)
        seconds, memory = self._limits.seconds, self._limits.memory_bytes
        if seconds is not None and job.seconds > seconds:
            self._end(
                job,
                CellStatus.TIMEOUT,
                f"it took more than {seconds:g} s ({_during(job)})",
                "raise --limit-seconds",
            )
            return True
        if memory is not None and (job.peak_bytes or 0) > memory:
            self._end(
                job,
                CellStatus.MEMORY,
                f"it took {size_text(job.peak_bytes or 0)} of memory, more than {size_text(memory)} ({_during(job)})",
                "raise --limit-memory",
            )
            return True
        return False

    def _take(self, job: _Job, event: str, values: dict[str, Any]) -> None:
        match event:
            case Event.STEP:
                job.step = values["text"]
            case Event.LOADED:
                job.facts = values
                self._restart_clock(job)
            case Event.STARTED:
                job.cell, job.step = values["cell"], ""
                self._restart_clock(job)
            case Event.ENDED:
                number = values.pop("cell")
                if number == job.cell:
                    job.first, job.cell = False, None
                job.todo.remove(number)
                self._ended.append(self._cell(job, number, values))
                self._restart_clock(job)
            case Event.BROKEN:
                for number in job.todo:
                    self._ended.append(self._cell(job, number, values))
                job.todo.clear()

    def _restart_clock(self, job: _Job) -> None:
        job.started, job.peak_bytes = time.monotonic(), None

    def _end(self, job: _Job, status: CellStatus, reason: str, hint: str = "") -> None:
        """End a child. If it has not finished, the running cell has failed, and a new child runs the rest."""
        job.child.end()
        if not job.todo:
            return
        self._clear(job, job.todo)
        kind = {CellStatus.TIMEOUT: "TimeLimit", CellStatus.MEMORY: "MemoryLimit"}.get(status, "Crash")
        values = {
            "status": status,
            "kind": kind,
            "message": reason,
            "hint": hint,
            "seconds": round(job.seconds, 3),
        }
        failed, rest = job.todo, list[int]()
        if job.cell is not None:
            failed = [job.cell]
            rest = [number for number in job.todo if number != job.cell]
            if not job.first and status is not CellStatus.TIMEOUT:
                # the formats before it may be the cause: it gets a child of its own
                failed = []
                self._again.append(replace(job.task, todo=(job.cell,)))
        for number in failed:
            self._ended.append(self._cell(job, number, values))
        if rest:
            self._again.append(replace(job.task, todo=tuple(rest)))

    def _cell(self, job: _Job, number: int, values: Mapping[str, Any]) -> Cell:
        memory = max(values.get("memory_bytes") or 0, job.peak_bytes or 0) or None
        return self._rows.cell(job.task.model, number, {**job.facts, **values, "memory_bytes": memory})

    def _clear(self, job: _Job, numbers: Iterable[int]) -> None:
        """Remove what a killed child was writing; its temporary folder is gone already."""
        if job.task.folder is None:
            return
        try:
            planned = plan_separately(
                job.task.model.name, job.task.targets, job.task.folder, **job.task.options
            )
        except TimmxError:
            return
        for number in numbers:
            item = planned[number]
            if isinstance(item, Target):
                clean_up(item.path)


def _during(job: _Job) -> str:
    return f"while {job.step[:1].lower()}{job.step[1:]}" if job.step else "during the export"
