"""The HTML report of a sweep: outcomes by family and format, all cells, failures by reason, and what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.base import counted
from timmx.report import (
    Column,
    Group,
    Groups,
    Point,
    Report,
    Scatter,
    Section,
    Table,
)
from timmx.sweep.grid import one_line, outcome_grid, shortened
from timmx.sweep.report import totals_line, weights_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from timmx.report import Better, Kind
    from timmx.sweep.cell import Cell
    from timmx.sweep.changes import Change, Changes
    from timmx.sweep.summary import Summary

_LONGEST_IN_TABLE = 110

_MOST_GROUPS = 500
"""Maximum number of reasons, the most frequent ones."""

_MOST_NAMES = 1000
"""Maximum number of models that are listed for one reason."""

_COLUMNS = (
    Column("model", "Model"),
    Column("target", "Format"),
    Column("result", "Result"),
    Column("message", "Reason"),
    Column("snr_db", "SNR", "db"),
    Column("accuracy", "Top-1", "percent"),
    Column("model_accuracy", "PyTorch top-1", "percent"),
    Column("latency_ms", "Latency", "ms"),
    Column("latency_p90_ms", "Latency p90", "ms"),
    Column("size_bytes", "Size", "bytes"),
    Column("parameters", "Parameters", "number"),
    Column("seconds", "Time", "s"),
    Column("cpu_seconds", "CPU time", "s"),
    Column("memory_bytes", "Memory", "bytes"),
    Column("family", "Family"),
    Column("weights", "Weights"),
    Column("precision", "Precision"),
    Column("node", "Node"),
)


def sweep_page(summary: Summary, changes: Changes | None = None) -> Report:
    """The report that `timmx sweep report --html` writes.

    Args:
        summary: the results.
        changes: since another journal; None to leave them out.
    """
    sections: list[Section] = [outcome_grid(summary)]
    if changes is not None:
        sections += _changes(changes)
    sections += _failures(summary)
    sections += _scatters(summary)
    sections.append(_cells(summary))
    run = summary.runs[-1] if summary.runs else None
    return Report(
        title=f"Sweep of {counted(len(summary.models), 'model')} and {counted(len(summary.targets), 'format')}",
        summary=" ".join(
            filter(None, (totals_line(summary), weights_line(summary).replace("--awaken", "`--awaken`")))
        ),
        sections=sections,
        environment=run.machine if run else {},
        commands=[run.command] if run and run.command else [],
    )


def _failures(summary: Summary) -> list[Section]:
    failures = summary.failures()
    groups = [
        Group(
            title=f"{group.target}: {group.status.words}, {counted(len(group.cells), 'model')}",
            text=one_line(group.message),
            hint=one_line(group.hint),
            names=_names([cell.model for cell in group.cells]),
            command=group.cells[0].command,
        )
        for group in failures[:_MOST_GROUPS]
    ]
    if not groups:
        return []
    note = "Each command repeats the first cell of its group."
    if len(groups) < len(failures):
        note += f" The most frequent {len(groups):,} of {len(failures):,} reasons."
    return [Groups("Failures by reason", groups, note)]


def _names(models: list[str]) -> list[str]:
    if len(models) <= _MOST_NAMES:
        return models
    return [*models[:_MOST_NAMES], f"and {counted(len(models) - _MOST_NAMES, 'more model')}"]


def _scatters(summary: Summary) -> list[Section]:
    order = {target: number for number, target in enumerate(summary.targets)}
    passed = sorted(
        (cell for cell in summary.cells.values() if cell.status.passed and cell.size_bytes),
        key=lambda cell: order[cell.target],
    )
    kinds: tuple[tuple[str, str, str, Kind, Better], ...] = (
        ("accuracy", "Accuracy and size", "top-1", "percent", "higher"),
        ("latency_ms", "Latency and size", "latency (ms)", "ms", "lower"),
    )
    sections: list[Section] = []
    for name, title, axis, kind, better in kinds:
        points = [
            Point(
                name=f"{cell.model}, {cell.target}",
                x=cell.size_bytes or 0,
                y=getattr(cell, name),
                group=cell.target,
            )
            for cell in passed
            if getattr(cell, name) is not None
        ]
        if points:
            sections.append(
                Scatter(
                    title=title,
                    x_title="file size (bytes)",
                    y_title=axis,
                    points=points,
                    x_kind="bytes",
                    y_kind=kind,
                    better=better,
                    note="Click a format to hide or show its marks.",
                )
            )
    return sections


def _cells(summary: Summary) -> Table:
    cells = sorted(summary.cells.values(), key=lambda cell: cell.status.passed)
    rows = [_row(cell) for cell in cells]
    columns = [column for column in _COLUMNS if any(row[column.key] not in (None, "") for row in rows)]
    return Table("All cells", columns, rows, "Failed cells come first.")


def _row(cell: Cell) -> dict[str, Any]:
    row = {column.key: getattr(cell, column.key, None) for column in _COLUMNS}
    return row | {
        "result": cell.status.words,
        "message": shortened(one_line(cell.message), _LONGEST_IN_TABLE),
    }


def _changes(changes: Changes) -> list[Section]:
    columns = [Column("model", "Model"), Column("target", "Format")]
    outcomes = [*columns, Column("before", "Before"), Column("now", "Now"), Column("reason", "Reason")]
    figures = [
        *columns,
        Column("db_before", "SNR before", "db"),
        Column("db_now", "now", "db"),
        Column("db", "change", "db"),
        Column("s_before", "Time before", "s"),
        Column("s_now", "now", "s"),
        Column("s", "change", "s"),
        Column("ratio", "Time ratio", "number"),
    ]
    apart = sorted(changes.apart, key=lambda change: change.db or 0.0)
    sections: list[Section] = [
        Table(
            "Newly failing", outcomes, [_outcomes(change) for change in changes.newly_failing], changes.text
        ),
        Table("Newly passing", outcomes, [_outcomes(change) for change in changes.newly_passing]),
    ]
    if apart:
        sections.append(
            Table(
                "Signal-to-noise ratio and time of cells that passed twice",
                figures,
                [_figures(change) for change in apart],
                "The cells that lost most are first. Times are wall times: they depend on what else was running.",
            )
        )
    return sections


def _outcomes(change: Change) -> dict[str, Any]:
    failing = change.now if not change.now.status.passed else change.before
    return {
        "model": change.now.model,
        "target": change.now.target,
        "before": change.before.status.words,
        "now": change.now.status.words,
        "reason": shortened(one_line(failing.message)),
    }


def _figures(change: Change) -> Mapping[str, Any]:
    return {
        "model": change.now.model,
        "target": change.now.target,
        "db_before": change.before.snr_db,
        "db_now": change.now.snr_db,
        "db": change.db,
        "s_before": change.before.seconds,
        "s_now": change.now.seconds,
        "s": change.seconds,
        "ratio": change.ratio,
    }
