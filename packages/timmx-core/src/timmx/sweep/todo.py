"""Which cells of a plan are left to run, and the tasks that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.sweep.choices import Keep
from timmx.sweep.task import Task

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from timmx.sweep.cell import Cell
    from timmx.sweep.plan import SweepPlan

_DEPENDS_ON_THE_MACHINE = ("ArtifactError", "MissingRequirementError", "ModelError", "LostNode")
"""Errors of the disk, the environment, the network or a cluster: the next run may not have them."""


def tasks_of(
    plan: SweepPlan, folder: Path, kept: Collection[tuple[str, str]], *, threads: int, temporary: bool = False
) -> Iterator[Task]:
    """One task for each model that has cells to run; made when it is needed.

    Args:
        plan: the plan.
        folder: of the sweep.
        kept: places of cells that do not run again; see `kept_cells`.
        threads: number of threads of PyTorch; 0 for its default.
        temporary: files that are not kept are written to a temporary folder, not to that of the sweep.
    """
    elsewhere = bool(plan.storage) or (temporary and plan.keep is Keep.NONE)
    for model, name in plan.folders():
        todo = tuple(
            number for number, column in enumerate(plan.columns) if (model.label, column) not in kept
        )
        if todo:
            yield Task(
                model=model,
                options=plan.options_of(model),
                targets=plan.targets,
                todo=todo,
                name=name,
                folder=None if elsewhere else folder / name,
                storage=plan.storage,
                keep=plan.keep,
                data=plan.data,
                threads=threads,
            )


def kept_cells(plan: SweepPlan, cells: Iterable[Cell], *, retry: bool = False) -> set[tuple[str, str]]:
    """The places of cells that do not run again: same inputs, same versions, and a result that would not change.

    Args:
        plan: the plan.
        cells: of the journal, in order; the last one of a place counts.
        retry: repeat all failures.
    """
    models = {model.label: model for model in plan.models}
    columns = {column: number for number, column in enumerate(plan.columns)}
    versions = plan.versions()
    last_label, keys = "", list[str]()
    kept: set[tuple[str, str]] = set()
    for cell in cells:
        number = columns.get(cell.target)
        if number is None or cell.model not in models:
            continue
        if cell.model != last_label:  # the cells of a model mostly follow each other
            last_label, keys = cell.model, plan.keys(models[cell.model])
        if (
            cell.key == keys[number]
            and dict(cell.versions) == versions[number]
            and _is_final(cell, plan.keep, retry)
        ):
            kept.add(cell.place)
        else:
            kept.discard(cell.place)
    return kept


def _is_final(cell: Cell, keep: Keep, retry: bool) -> bool:
    if not cell.status.passed:
        return not retry and cell.kind not in _DEPENDS_ON_THE_MACHINE
    return keep is Keep.NONE or bool(cell.file)
