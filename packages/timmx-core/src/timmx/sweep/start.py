"""One run of a sweep: opens the journal, runs what is left, and returns the table of results."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from timmx.base import can_measure_processes
from timmx.errors import ArtifactError, ConfigurationError
from timmx.exporting import installed_versions
from timmx.processes import ProcessLauncher
from timmx.report import environment
from timmx.sweep.cell import Cell
from timmx.sweep.choices import Keep
from timmx.sweep.driver import NO_LIMITS, Driver, Limits, Watcher
from timmx.sweep.journal import Journal, Run, journal_of, read_lines
from timmx.sweep.plan import SweepPlan, kept_cells, make_plan
from timmx.sweep.summary import Summary, summarize
from timmx.sweep.worker import run_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from timmx.sweep.models import SweepModel


def run_sweep(
    models: Sequence[SweepModel],
    targets: Sequence[str | Mapping[str, Any]],
    folder: Path,
    *,
    options: Mapping[str, Any] | None = None,
    data: Path | None = None,
    keep: Keep = Keep.PASSED,
    limits: Limits = NO_LIMITS,
    jobs: int = 1,
    resume: bool = False,
    retry: bool = False,
    command: str = "",
    watcher: Watcher | None = None,
) -> Summary:
    """Export models to formats, and record each cell in the folder's journal.

    Args:
        models: of `find_models`; empty to continue with the plan of the last run.
        targets: as for `timmx.export_many`; likewise.
        folder: where the journal and the files go.
        options: shared options of all exports by name.
        data: labeled images for the accuracy of each file.
        keep: which files are kept.
        limits: of each cell.
        jobs: number of models that are exported at once.
        resume: continue the folder's journal: cells with the same inputs and versions are not run again.
        retry: with `resume`, repeat failed cells.
        command: the command line, for the report.
        watcher: is called while the sweep runs.

    Returns:
        The results of all cells of the plan.

    Raises:
        TimmxError: the models, targets or options are invalid, the folder cannot be written, or its journal cannot be
            used. Nothing was exported.
    """
    if limits.memory_bytes is not None and not can_measure_processes():
        raise ConfigurationError(
            "--limit-memory is not supported on this system: the memory of a process cannot be measured",
            hint="leave --limit-memory out",
        )
    if models or targets:
        plan = make_plan(models, targets, folder, options=options or {}, data=data, keep=keep)
    else:
        plan = _plan_of_last_run(folder)
        make_plan(plan.models, plan.targets, folder, options=plan.options, data=plan.data, keep=plan.keep)
    with Journal(folder, resume=resume) as journal:
        cells = (line for line in read_lines(journal.path) if isinstance(line, Cell))
        kept = kept_cells(plan, cells, retry=retry)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        journal.add_run(Run(command=command, started=started, machine=_machine(plan), plan=plan.to_json()))
        with ProcessLauncher(run_task, plan.preload()) as launcher:
            driver = Driver(plan, journal, launcher, limits=limits, jobs=jobs, watcher=watcher)
            driver.run(kept)
    if journal.unwritten:
        raise ArtifactError(
            f"{journal.path} cannot be written: {journal.unwritten} lines are not in it",
            hint="free some space, and run the same command with --resume",
        )
    return summarize(journal.path)


def _plan_of_last_run(folder: Path) -> SweepPlan:
    runs = [line for line in read_lines(journal_of(folder)) if isinstance(line, Run)]
    if not runs:
        raise ConfigurationError(
            f"the journal in {folder} has no run to continue", hint="give the models and targets again"
        )
    return SweepPlan.from_json(runs[-1].plan)


def _machine(plan: SweepPlan) -> dict[str, str]:
    names = dict.fromkeys(name for versions in plan.versions() for name in versions)
    return environment() | installed_versions(*names)
