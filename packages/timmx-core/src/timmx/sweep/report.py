"""The results of a sweep as text, CSV and Markdown."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from timmx.base import counted, format_table, shown, size_text
from timmx.sweep.cell import Cell, CellStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from timmx.sweep.changes import Changes
    from timmx.sweep.summary import Count, Failures, Summary

_MOST_COMMANDS = 3
"""Commands of one group of failures that are shown as text."""


_MOST_DIFFERENCES = 10
"""Cells with the largest differences to another sweep that are shown as text."""

_CSV_COLUMNS = (
    *("model", "family", "parameters", "weights", "target", "backend", "status", "precision", "size_bytes"),
    *("snr_db", "floor_db", "top1_agreement", "accuracy", "model_accuracy", "latency_ms", "latency_p90_ms"),
    *("seconds", "cpu_seconds", "memory_bytes", "node", "file"),
    *("kind", "message", "hint", "command", "ended"),
)


def text_report(summary: Summary) -> list[str]:
    """Lines: a table of families and targets, and the failures by reason, each with commands that repeat it."""
    if not summary.cells:
        return [f"None of {counted(summary.planned, 'cell')} has run yet."]
    lines = format_table(_family_rows(summary))
    lines += ["", totals_line(summary)]
    if weights := weights_line(summary):
        lines.append(weights)
    lines += _accuracy_lines(summary)
    for group in summary.failures():
        lines += ["", *_group(group)]
    return lines


def csv_rows(summary: Summary) -> Iterator[list[str]]:
    """The names of the columns, then one row per cell."""
    yield list(_CSV_COLUMNS)
    for cell in summary.cells.values():
        values = (getattr(cell, name) for name in _CSV_COLUMNS)
        yield ["" if value is None else _one_line(value) for value in values]


def changes_text(changes: Changes) -> list[str]:
    """Lines: how many cells newly fail and pass, and which, each failure with the command that repeats it."""
    lines = [changes.text]
    for title, some in (("newly failing", changes.newly_failing), ("newly passing", changes.newly_passing)):
        for change in some:
            failing = change.now if not change.now.status.passed else change.before
            lines += ["", f"{title}: {change.now.model} {change.now.target}: {_one_line(failing.message)}"]
            if not change.now.status.passed:
                lines.append(f"  {shown(change.now.command)}")
    largest = sorted(
        (change for change in changes.apart if change.db), key=lambda change: -abs(change.db or 0)
    )
    if largest:
        rows = [("largest differences", "dB", "s")]
        rows += [
            (f"{change.now.model} {change.now.target}", f"{change.db:+.1f}", f"{change.seconds:+.1f}")
            for change in largest[:_MOST_DIFFERENCES]
        ]
        lines += ["", *format_table(rows)]
    return lines


def markdown_report(summary: Summary) -> list[str]:
    """Lines of Markdown: when and where it ran, counts, one row per model, and the failures by reason."""
    lines = [*_origin(summary), "", *_markdown_table(_count_rows(summary))]
    lines += ["", *_markdown_table(_model_rows(summary))]
    groups = summary.failures()
    if groups:
        rows = [("target", "result", "models", "reason")]
        for group in groups:
            models = ", ".join(cell.model for cell in group.cells)
            rows.append((group.target, group.status.words, models, _one_line(group.message)))
        lines += ["", *_markdown_table(rows)]
    return lines


def _family_rows(summary: Summary) -> list[tuple[str, ...]]:
    rows = [("family", *summary.targets)]
    rows += [
        (family, *(_count(row.get(target)) for target in summary.targets))
        for family, row in summary.families().items()
    ]
    if len(rows) > 2:
        totals = summary.totals()
        rows.append(("all", *(_count(totals[target]) for target in summary.targets)))
    return rows


def _count(count: Count | None) -> str:
    return "-" if count is None else f"{count.passed}/{count.total}"


def totals_line(summary: Summary) -> str:
    """How many cells passed, failed and are left."""
    text = f"{summary.passed:,} of {counted(summary.planned, 'cell')} passed"
    if summary.failed:
        text += f", {summary.failed:,} failed"
    if summary.missing:
        text += f", {summary.missing:,} not run yet (use --resume to continue)"
    return f"{text}."


def weights_line(summary: Summary) -> str:
    """What weights the models had, if not all were trained."""
    kinds = {cell.model: cell.weights for cell in summary.cells.values() if cell.weights}
    counts = Counter(kinds.values())
    if not counts or counts.keys() == {"trained"}:
        return ""
    words = {
        "awakened": "random weights changed by --awaken",
        "untrained": "untrained weights",
        "trained": "trained weights",
    }
    parts = [f"{counted(count, 'model')} with {words.get(kind, kind)}" for kind, count in counts.items()]
    return f"{', '.join(parts)}."


def _accuracy_lines(summary: Summary) -> list[str]:
    """A table of the models' accuracy on `--data`, in PyTorch and in each format; empty without it."""
    rows = [("top-1 accuracy", "PyTorch", *summary.targets)]
    for model in summary.models:
        cells = [summary.cells.get((model, target)) for target in summary.targets]
        known = [cell for cell in cells if cell is not None and cell.accuracy is not None]
        if known:
            values = (cell.accuracy if cell is not None else None for cell in cells)
            rows.append((model, *map(_percent, (known[0].model_accuracy, *values))))
    return ["", *format_table(rows)] if len(rows) > 1 else []


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _group(group: Failures) -> Iterator[str]:
    models = [cell.model for cell in group.cells]
    yield f"{group.target}: {group.status.words}, {counted(len(models), 'model')}: {_one_line(group.message)}"
    if group.hint:
        yield f"  hint: {_one_line(group.hint)}"
    for cell in group.cells[:_MOST_COMMANDS]:
        yield f"  {shown(cell.command)}"
    if len(models) > _MOST_COMMANDS:
        yield f"  and {len(models) - _MOST_COMMANDS:,} more; --format csv lists all"


def _origin(summary: Summary) -> Iterator[str]:
    """When, where and by which command the results were made."""
    if not summary.runs:
        return
    run = summary.runs[-1]
    ended = max((cell.ended for cell in summary.cells.values()), default="") or run.started
    facts = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    first = summary.runs[0].started[:10]
    dates = first if first == ended[:10] else f"{first} to {ended[:10]}"
    yield f"{dates}; {facts}. {totals_line(summary)} {weights_line(summary)}".rstrip()
    if run.command:
        yield ""
        yield f"    {run.command}"


def _count_rows(summary: Summary) -> list[tuple[str, ...]]:
    statuses = [
        status for status in CellStatus if any(cell.status is status for cell in summary.cells.values())
    ]
    rows = [("target", "passed", *(status.words for status in statuses))]
    totals = summary.totals()
    for target in summary.targets:
        counts = Counter(cell.status for cell in summary.cells.values() if cell.target == target)
        rows.append(
            (
                target,
                f"{totals[target].passed} of {totals[target].total}",
                *(str(counts[status] or "") for status in statuses),
            )
        )
    return rows


def _model_rows(summary: Summary) -> list[tuple[str, ...]]:
    accuracy = any(cell.accuracy is not None for cell in summary.cells.values())
    rows = [("family", "model", "parameters", *summary.targets)]
    for model in summary.models:
        cells = [summary.cells.get((model, target)) for target in summary.targets]
        known = [cell for cell in cells if cell is not None]
        family = next((cell.family for cell in known if cell.family), "")
        parameters = next((cell.parameters for cell in known if cell.parameters is not None), None)
        rows.append(
            (
                family,
                model,
                "" if parameters is None else f"{parameters / 1e6:.1f} M",
                *(_figure(cell, accuracy) for cell in cells),
            )
        )
    return rows


def _figure(cell: Cell | None, accuracy: bool) -> str:
    """What a table of models shows of a cell: its ratio, or why it has none; its size and accuracy."""
    if cell is None:
        return ""
    ratio = "" if cell.snr_db is None else _decibels(cell.snr_db)
    if not cell.status.passed:
        return f"{cell.status.words}, {ratio}" if ratio else cell.status.words
    parts = [ratio or cell.status.words]
    if cell.status is CellStatus.UNPROVEN:
        parts.append("unproven")
    if cell.size_bytes is not None:
        parts.append(size_text(cell.size_bytes))
    if accuracy and cell.accuracy is not None:
        parts.append(f"top-1 {100 * cell.accuracy:.1f} %")
    return ", ".join(parts)


def _decibels(value: float) -> str:
    return f"{value:.0f} dB" if math.isfinite(value) else f"{value} dB"


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(map(_escape, row))} |" for row in rows]
    return [lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]


def _escape(text: str) -> str:
    return shown(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
