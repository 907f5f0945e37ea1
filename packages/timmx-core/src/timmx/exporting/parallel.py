"""Exports the targets of one model at the same time, in child processes that share its load and its captures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.artifact import clean_up
from timmx.base import peak_resident_bytes, reporter, usable_cores
from timmx.contract import Device
from timmx.errors import ConfigurationError
from timmx.exporting.parts import Event, ProcessCrash, Work, pass_to_reporter, run_work
from timmx.processes import ProcessLauncher, StartMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from timmx.exporting.pipeline import ExportResult
    from timmx.exporting.targets import Target
    from timmx.processes import Child

_TICK_S = 1.0

MODULES = (
    "torch",
    "timm",
    "torch.export._trace",
    "torch.export._unlift",
    "torch._functorch.partitioners",
    "torch._inductor.constant_folding",
    "timmx.exporting.parts",
    "timmx.exporting.session",
    "timmx.capture.trace",
    "timmx.model.load",
    "timmx.model.preparation",
    "timmx.verification.comparison",
)
"""What every export imports, whatever its format."""


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the targets share.

    Attributes:
        seconds: wall time of the steps that they share.
        jobs: number of processes that ran at once.
        memory_bytes: largest memory of all processes together; None if it was not measured.
    """

    seconds: dict[str, float]
    jobs: int
    memory_bytes: int | None


def check_jobs(targets: Sequence[Target], jobs: int | None) -> int | None:
    """The number of processes for an export; None to decide by memory when the model is loaded.

    Args:
        targets: the targets.
        jobs: the requested number; None for the default.

    Raises:
        ConfigurationError: these targets cannot be exported in several processes.
    """
    request = targets[0].request
    if jobs is not None and jobs < 1:
        raise ConfigurationError(f"--jobs {jobs} is less than 1", hint="use 1 or more")
    reason = ""
    if not isinstance(request.model, str):
        reason = "a module is exported in this process"
    elif request.device is not Device.CPU:
        reason = "a GPU is used by one process only"
    if reason and jobs not in (None, 1):
        raise ConfigurationError(f"--jobs {jobs} is not possible: {reason}", hint="use --jobs 1")
    if reason or len(targets) == 1 or (jobs is None and usable_cores() == 1):
        return 1
    return jobs and min(jobs, len(targets))


def export_in_parallel(
    targets: Sequence[Target],
    jobs: int | None,
    ended: Callable[[Target, ExportResult | Exception], None],
    method: StartMethod | None = None,
) -> Shared:
    """Export targets in child processes.

    Args:
        targets: with a model that they share.
        jobs: number of processes at once; None to decide by cores and memory.
        ended: is called with each target when it has ended, and its result or its error.
        method: how the first process is started; None for the fastest one of this system.

    Raises:
        TimmxError: the model cannot be loaded or prepared; nothing was exported.
        ProcessCrash: the process that loads the model has crashed.
    """
    method = method or StartMethod.default()
    work = Work(
        targets=tuple(targets),
        jobs=jobs,
        shows_output=reporter().shows_output,
        forks=method is StartMethod.SERVER,
    )
    with ProcessLauncher(run_work, MODULES, method=method, shows_output=work.shows_output) as launcher:
        reporter().step("Starting")
        run = _Run(targets, launcher.start(work), ended)
        try:
            run.follow(launcher)
        finally:
            run.child.end()
            for number in run.todo:
                clean_up(targets[number].path)
        return Shared(seconds=run.seconds, jobs=run.jobs, memory_bytes=run.memory_bytes())


class _Run:
    """Follows what the children report.

    Attributes:
        child: the first process.
        todo: numbers of the targets that have not ended.
        seconds: see `Shared`; also `jobs`.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        child: Child,
        ended: Callable[[Target, ExportResult | Exception], None],
    ) -> None:
        self.child, self.todo = child, list(range(len(targets)))
        self.seconds: dict[str, float] = {}
        self.jobs = 1
        self._targets, self._ended = targets, ended
        self._is_loaded = False
        self._started: set[int] = set()
        self._shared_bytes: int | None = None
        self._grown: dict[int, int] = {}

    def follow(self, launcher: ProcessLauncher) -> None:
        """Wait for the end of all targets."""
        while True:
            launcher.wait([self.child], _TICK_S)
            reason = self.child.ending()
            for event, values in self.child.messages():
                self._take(event, values)
            if not self.todo:
                return
            if reason is not None:
                error = ProcessCrash(reason or "the process ended without a result")
                if not self._is_loaded:
                    raise error
                for number in tuple(self.todo):
                    self._end(number, error)
                return

    def memory_bytes(self) -> int | None:
        """The largest memory of all processes together: of the first, and what the others do not share with it."""
        if self._shared_bytes is None:
            return None
        grown = sorted(self._grown.values(), reverse=True)
        return (peak_resident_bytes() or 0) + self._shared_bytes + sum(grown[: self.jobs])

    def _take(self, event: str, values: dict[str, Any]) -> None:
        match event:
            case Event.BROKEN:
                raise values["error"].restore()
            case Event.LOADED:
                self._is_loaded = True
                self.seconds, self.jobs = values["seconds"], values["jobs"]
                self._shared_bytes = values["memory_bytes"]
            case Event.STARTED:
                self._select(values["target"])
            case Event.ENDED:
                if values.get("grown_bytes"):
                    self._grown[values["process"]] = values["grown_bytes"]
                outcome = values["result"] if "result" in values else values["error"].restore()
                self._end(values["target"], outcome)
            case _:
                self._select(values["target"])
                pass_to_reporter(event, values["arguments"])

    def _select(self, number: int | None) -> None:
        """What is reported next belongs to this target, or to all."""
        if number is None:
            reporter().select_row("")
        elif number in self._started:
            reporter().select_row(self._targets[number].label)
        else:
            self._started.add(number)
            reporter().row(self._targets[number].label)

    def _end(self, number: int, outcome: ExportResult | Exception) -> None:
        target = self._targets[number]
        self.todo.remove(number)
        if isinstance(outcome, ProcessCrash):
            clean_up(target.path)
        self._select(number)
        self._ended(target, outcome)
