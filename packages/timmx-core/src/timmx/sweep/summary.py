"""The results of a sweep, read from its journal: cells by model and target, counts by family, failures by reason."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from timmx.sweep.cell import Cell, CellStatus
from timmx.sweep.journal import Run, read_lines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

UNKNOWN_FAMILY = "other"


@dataclass(frozen=True)
class Count:
    """How many cells of a family and a target passed.

    Attributes:
        passed: cells with a file.
        total: cells that have run.
    """

    passed: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Cells that failed for the same reason.

    Attributes:
        target: the target.
        status: how they ended.
        message: the message of the first.
        hint: how to fix it.
        cells: in order.
    """

    target: str
    status: CellStatus
    message: str
    hint: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The results of a sweep.

    Attributes:
        runs: in order.
        models: labels in the order of the last run's plan, then others of the journal.
        targets: likewise.
        cells: the last result of each cell, by model and target.
        planned: number of cells of the last run's plan, and of cells that only earlier runs had.
    """

    runs: tuple[Run, ...]
    models: tuple[str, ...]
    targets: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    planned: int

    @property
    def passed(self) -> int:
        """Number of cells with a file."""
        return sum(cell.status.passed for cell in self.cells.values())

    @property
    def failed(self) -> int:
        """Number of cells that ran and have no file."""
        return len(self.cells) - self.passed

    @property
    def missing(self) -> int:
        """Number of cells of the plan that have not run."""
        return max(0, self.planned - len(self.cells))

    @property
    def exit_code(self) -> int:
        """0 if all cells passed, 1 after an internal error or a crash, otherwise 2."""
        if not self.failed:
            return 0
        internal = (CellStatus.ERROR, CellStatus.CRASHED)
        return 1 if any(cell.status in internal for cell in self.cells.values()) else 2

    def families(self) -> dict[str, dict[str, Count]]:
        """For each family, in alphabetical order, the count of each target."""
        counts: dict[str, dict[str, list[int]]] = {}
        for cell in self.cells.values():
            row = counts.setdefault(cell.family or UNKNOWN_FAMILY, {})
            pair = row.setdefault(cell.target, [0, 0])
            pair[0] += cell.status.passed
            pair[1] += 1
        return {
            family: {target: Count(*pair) for target, pair in counts[family].items()}
            for family in sorted(counts)
        }

    def totals(self) -> dict[str, Count]:
        """The count of each target."""
        passed = Counter(cell.target for cell in self.cells.values() if cell.status.passed)
        total = Counter(cell.target for cell in self.cells.values())
        return {target: Count(passed[target], total[target]) for target in self.targets}

    def failures(self) -> list[Failures]:
        """Failures grouped by target, status and reason; the largest group first."""
        groups: dict[tuple[str, CellStatus, str], list[Cell]] = {}
        for cell in self.cells.values():
            if not cell.status.passed:
                groups.setdefault((cell.target, cell.status, _reason(cell)), []).append(cell)
        failures = [
            Failures(
                target=target,
                status=status,
                message=cells[0].message,
                hint=cells[0].hint,
                cells=tuple(cells),
            )
            for (target, status, _), cells in groups.items()
        ]
        return sorted(failures, key=lambda group: -len(group.cells))

    def to_dict(self) -> dict[str, Any]:
        """JSON values: counts, and failures with their commands."""
        return {
            "planned": self.planned,
            "passed": self.passed,
            "failed": self.failed,
            "missing": self.missing,
            "families": {
                family: {target: [count.passed, count.total] for target, count in row.items()}
                for family, row in self.families().items()
            },
            "failures": [
                {
                    "target": group.target,
                    "status": group.status,
                    "message": group.message,
                    "hint": group.hint,
                    "cells": [{"model": cell.model, "command": cell.command} for cell in group.cells],
                }
                for group in self.failures()
            ],
        }


@dataclass
class _Reading:
    """What has been read of a journal."""

    runs: list[Run] = field(default_factory=list)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    versions: dict[str, Mapping[str, str]] = field(default_factory=dict)


def summarize(path: Path) -> Summary:
    """The results in a journal; of a cell that has run several times, the last one.

    Raises:
        ConfigurationError: the file is not a journal, is damaged, or another version wrote it.
    """
    reading = _Reading()
    for line in read_lines(path):
        if isinstance(line, Run):
            reading.runs.append(line)
        else:
            cell = _without_repetition(line, reading.versions)
            reading.cells[cell.place] = cell
    models, targets = _plan_of(reading.runs[-1]) if reading.runs else ([], [])
    order = {model: number for number, model in enumerate(models)}
    columns = {target: number for number, target in enumerate(targets)}
    for cell in reading.cells.values():
        order.setdefault(cell.model, len(order))
        columns.setdefault(cell.target, len(columns))
    cells = dict(sorted(reading.cells.items(), key=lambda item: (order[item[0][0]], columns[item[0][1]])))
    rows, names = set(models), set(targets)
    earlier = sum(1 for model, target in cells if model not in rows or target not in names)
    return Summary(
        runs=tuple(reading.runs),
        models=tuple(order),
        targets=tuple(columns),
        cells=cells,
        planned=len(models) * len(targets) + earlier,
    )


def _plan_of(run: Run) -> tuple[list[str], list[str]]:
    from timmx.sweep.plan import SweepPlan

    plan = SweepPlan.from_json(run.plan)
    return [model.label for model in plan.models], list(plan.columns)


def _without_repetition(cell: Cell, versions: dict[str, Mapping[str, str]]) -> Cell:
    """A cell whose repeated texts are stored once.

    Args:
        cell: the cell.
        versions: those of earlier cells, by their text.
    """
    return replace(
        cell,
        model=sys.intern(cell.model),
        target=sys.intern(cell.target),
        backend=sys.intern(cell.backend),
        family=sys.intern(cell.family),
        message=sys.intern(cell.message),
        hint=sys.intern(cell.hint),
        notes=tuple(map(sys.intern, cell.notes)),
        versions=versions.setdefault(str(cell.versions), cell.versions),
    )


def _reason(cell: Cell) -> str:
    """The message without what differs from model to model: its name, and numbers."""
    text = cell.message
    for name in sorted({cell.model, cell.model.partition(".")[0]}, key=len, reverse=True):
        text = text.replace(name, "MODEL")
    return re.sub(r"\d+(?:\.\d+)?", "N", text)
