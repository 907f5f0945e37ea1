"""One run of a sweep: opens the journal, runs what is left, and returns the table of results."""

from __future__ import annotations

import datetime
import hashlib
import platform
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timmx.base import can_measure_processes, usable_cores
from timmx.errors import ArtifactError, ConfigurationError
from timmx.exporting import installed_versions
from timmx.report import environment
from timmx.sweep.cell import Cell
from timmx.sweep.choices import Keep
from timmx.sweep.cluster import Cluster, ClusterDriver
from timmx.sweep.connection import connected
from timmx.sweep.driver import NO_LIMITS, Driver, Limits
from timmx.sweep.journal import Journal, Run, journal_of, read_lines
from timmx.sweep.latency import measure_latencies
from timmx.sweep.node import Setup, make_launcher
from timmx.sweep.plan import SweepPlan, make_plan
from timmx.sweep.rows import Rows
from timmx.sweep.storage import Storage
from timmx.sweep.summary import Summary, summarize
from timmx.sweep.todo import kept_cells, tasks_of
from timmx.sweep.watching import Watcher

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
    storage: str = "",
    limits: Limits = NO_LIMITS,
    jobs: int | None = None,
    cluster: Cluster | None = None,
    bench: bool = False,
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
        storage: an fsspec URL for the files, such as `s3://bucket/sweep`; empty to keep them in the folder.
        limits: of each cell.
        jobs: number of models that are exported at once; None for one, or on a cluster for as many as it has room for.
        cluster: a Ray cluster to run on; None for this machine.
        bench: when all cells have ended, measure the latency of each kept file on this machine.
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
    folder = folder.absolute()
    with ExitStack() as stack:
        if cluster is not None:
            stack.enter_context(connected(cluster.address))
        if models or targets:
            plan = make_plan(
                models, targets, folder, options=options or {}, data=data, keep=keep, storage=storage
            )
        else:
            plan = _plan_of_last_run(folder)
            make_plan(plan.models, plan.targets, folder, options=plan.options, data=plan.data, keep=plan.keep)
        if bench and plan.keep is Keep.NONE:
            raise ConfigurationError(
                "--bench measures the files that are kept, and --keep none keeps no files",
                hint="use --keep passed, or leave --bench out",
            )
        if plan.storage:
            Storage(plan.storage).check()
        journal = stack.enter_context(Journal(folder, resume=resume))
        cells = (line for line in read_lines(journal.path) if isinstance(line, Cell))
        kept = kept_cells(plan, cells, retry=retry)
        watcher = watcher or Watcher()
        driver: Driver | ClusterDriver
        if cluster is None:
            launcher = stack.enter_context(make_launcher(plan))
            driver = Driver(Rows(plan), launcher, limits=limits, jobs=jobs or 1, watcher=watcher)
            threads = max(1, usable_cores() // jobs) if jobs and jobs > 1 else 0
        else:
            place = "" if plan.keep is Keep.NONE else plan.storage or str(folder)
            setup = Setup(
                plan=replace(plan, models=()),
                versions=tuple(plan.versions()),
                place=place,
                marker=stack.enter_context(Storage(place).marker(_marker_prefix(folder))) if place else "",
                limits=limits,
            )
            driver = ClusterDriver(plan, setup, cluster, jobs=jobs, watcher=watcher)
            threads = cluster.cpus
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        journal.add_run(Run(command=command, started=started, machine=_machine(plan), plan=plan.to_json()))
        watcher.started(len(plan.models) * len(plan.columns), len(kept))
        tasks = tasks_of(plan, folder, kept, threads=threads, temporary=cluster is not None)
        with closing(driver.run(tasks)) as ended:
            for cell in ended:
                journal.add(cell)
                watcher.ended(cell)
        if bench:
            places = {(model.label, column) for model in plan.models for column in plan.columns}
            recorded = summarize(journal.path).cells.values()
            for cell in measure_latencies(recorded, places, folder, plan.storage, watcher):
                journal.add(cell)
    if journal.unwritten:
        raise ArtifactError(
            f"{journal.path} cannot be written: {journal.unwritten} lines are not in it",
            hint="free some space, and run the same command with --resume",
        )
    return summarize(journal.path)


def _marker_prefix(folder: Path) -> str:
    """The start of the name of a sweep's marker: several sweeps may use one storage."""
    key = hashlib.sha256(f"{platform.node()}:{folder}".encode(errors="replace")).hexdigest()
    return f".timmx-sweep-{key[:16]}-"


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
