"""Runs the cells of a sweep in children, within limits of time and memory, and records each in the journal."""

from __future__ import annotations

import datetime
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from timmx.artifact import clean_up
from timmx.base import can_measure_processes, size_text, usable_cores
from timmx.errors import TimmxError
from timmx.exporting import Target, plan_separately
from timmx.model import load_index
from timmx.sweep.cell import Cell, CellStatus
from timmx.sweep.worker import Event, Task

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from timmx.processes import Child
    from timmx.sweep.journal import Journal
    from timmx.sweep.models import SweepModel
    from timmx.sweep.plan import SweepPlan

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


class Watcher:
    """Is called while a sweep runs; the command line shows it."""

    def started(self, total: int, kept: int) -> None:
        """The sweep starts.

        Args:
            total: number of cells.
            kept: how many of them are in the journal already.
        """

    def running(self, jobs: Sequence[Job]) -> None:
        """What is running now; called several times a second."""

    def ended(self, cell: Cell) -> None:
        """A cell has ended and is in the journal."""


@dataclass(kw_only=True)
class Job:
    """A child and what it is doing.

    Attributes:
        model: the model.
        columns: the targets as text, by number.
        keys: see `SweepPlan.keys`.
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

    model: SweepModel
    columns: Sequence[str]
    keys: Sequence[str]
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
    """Runs a plan.

    Args:
        plan: what to do.
        journal: where each cell is recorded.
        launcher: starts children.
        limits: of each cell.
        jobs: number of models that are exported at once.
        watcher: is called with what happens.
    """

    def __init__(
        self,
        plan: SweepPlan,
        journal: Journal,
        launcher: Launcher,
        *,
        limits: Limits = NO_LIMITS,
        jobs: int = 1,
        watcher: Watcher | None = None,
    ) -> None:
        self._plan, self._journal, self._launcher = plan, journal, launcher
        self._limits, self._jobs = limits, jobs
        self._watcher = watcher or Watcher()
        self._columns, self._backends, self._versions = plan.columns, plan.backends(), plan.versions()
        self._measures = can_measure_processes()
        self._threads = max(1, usable_cores() // jobs) if jobs > 1 else 0
        self._again: deque[Task] = deque()
        self._models: dict[Path, SweepModel] = {}
        self._index = load_index(build=False)

    def run(self, kept: Collection[tuple[str, str]] = ()) -> None:
        """Run all cells of the plan.

        Args:
            kept: places of cells that do not run again; see `kept_cells`.
        """
        ahead = self._tasks(kept)
        self._watcher.started(len(self._plan.models) * len(self._columns), len(kept))
        running: list[Job] = []
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
                self._watcher.running(running)
        finally:
            for job in running:
                job.child.end()
                self._clear(job, job.todo)

    def _tasks(self, kept: Collection[tuple[str, str]]) -> Iterator[Task]:
        """One task for each model that has cells to run; made when it is needed."""
        for model, name in self._plan.folders():
            todo = tuple(
                number for number, column in enumerate(self._columns) if (model.label, column) not in kept
            )
            if not todo:
                continue
            folder = self._journal.folder / name
            self._models[folder] = model
            yield Task(
                model=model.name,
                options=self._plan.options_of(model),
                targets=self._plan.targets,
                todo=todo,
                folder=folder,
                root=self._journal.folder,
                keep=self._plan.keep,
                data=self._plan.data,
                threads=self._threads,
            )

    def _next(self, ahead: Iterator[Task]) -> Job | None:
        """Start the next task: first the rest of a model whose child has ended."""
        task = self._again.popleft() if self._again else next(ahead, None)
        if task is None:
            return None
        model = self._models[task.folder]
        return Job(
            model=model,
            columns=self._columns,
            keys=self._plan.keys(model),
            task=task,
            child=self._launcher.start(task),
            todo=list(task.todo),
            step="Starting",
            facts={"family": self._family(model)},
        )

    def _family(self, model: SweepModel) -> str:
        """The family by name; the child corrects it when it has loaded the model."""
        indexed = self._index.models.get(model.name.partition(".")[0]) if self._index else None
        return indexed.family if indexed else ""

    def _advance(self, job: Job) -> bool:
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

    def _take(self, job: Job, event: str, values: dict[str, Any]) -> None:
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
                self._record(job, number, values)
                self._restart_clock(job)
            case Event.BROKEN:
                for number in job.todo:
                    self._record(job, number, values)
                job.todo.clear()

    def _restart_clock(self, job: Job) -> None:
        job.started, job.peak_bytes = time.monotonic(), None

    def _end(self, job: Job, status: CellStatus, reason: str, hint: str = "") -> None:
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
            self._record(job, number, values)
        if rest:
            self._again.append(replace(job.task, todo=tuple(rest)))

    def _record(self, job: Job, number: int, values: Mapping[str, Any]) -> None:
        status = CellStatus(values["status"])
        cell = Cell(
            model=job.model.label,
            target=self._columns[number],
            backend=self._backends[number],
            key=job.keys[number],
            **{
                **job.facts,
                **values,
                "status": status,
                "notes": tuple(values.get("notes", ())),
                "memory_bytes": max(values.get("memory_bytes") or 0, job.peak_bytes or 0) or None,
            },
            command="" if status.passed else self._plan.command(job.model, number),
            versions=self._versions[number],
            ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        # infinity and NaN are text in what a child reports, as in the journal
        cell = Cell.from_json(cell.to_json())
        self._journal.add(cell)
        self._watcher.ended(cell)

    def _clear(self, job: Job, numbers: Iterable[int]) -> None:
        """Remove what a killed child was writing."""
        try:
            planned = plan_separately(job.task.model, job.task.targets, job.task.folder, **job.task.options)
        except TimmxError:
            return
        for number in numbers:
            item = planned[number]
            if isinstance(item, Target):
                clean_up(item.path)


def _during(job: Job) -> str:
    return f"while {job.step[:1].lower()}{job.step[1:]}" if job.step else "during the export"
