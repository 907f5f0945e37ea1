"""Converts the content of a report to what its page shows: a table for every section, and data for every plot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from timmx.report.content import (
    Bars,
    Column,
    Distributions,
    Grid,
    Groups,
    Kind,
    Matrix,
    Point,
    Scatter,
    Section,
    Table,
)
from timmx.report.formats import MISSING, is_number, written
from timmx.report.marks import choose_marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LARGEST_MARK = 44
"""Diameter in pixels of the mark with the largest size."""

LEAST_MARK = 8
"""Minimum diameter in pixels: smaller marks are hard to see and to point at."""

MARK_WITHOUT_SIZE = 14
"""Diameter in pixels of marks without a size."""

_MANY_MARKS = 100
"""From this number of marks on, all have the minimum diameter: larger ones would cover each other."""

MOST_ROWS = 5000
"""Maximum number of rows in a table; Chromium took more than half a minute to sort ten times as many."""

MOST_CONFUSIONS = 1000
"""Maximum number of rows, the most frequent confusions, in the table below a confusion matrix."""


@dataclass(frozen=True)
class Cell:
    """A table cell, with the number that it is sorted by; None to sort by its text."""

    text: str
    order: float | None = None
    missing: bool = False

    @property
    def length(self) -> str:
        """`long` texts are always wrapped, `middling` ones on narrow screens."""
        return "long" if len(self.text) > 40 else "middling" if len(self.text) > 16 else ""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A section as the page shows it.

    Attributes:
        head: title of each column, and whether it is numeric.
        plot: JSON-ready; None for a table. With a plot, the table has its values.
        values_title: of that table.
        legend: example marks: diameter in pixels, and the size that it stands for.
        caption: below the plot, explains how to read it.
        groups: names of the groups of marks, with the index of their color.
        grid: shown instead of the table.
        opened: shown instead of the table.
    """

    title: str
    note: str
    head: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[Cell]]
    plot: Mapping[str, Any] | None = None
    values_title: str = "Values"
    legend: Sequence[tuple[float, str]] = ()
    caption: str = ""
    groups: Sequence[tuple[str, int]] = ()
    grid: Grid | None = None
    opened: Groups | None = None


def sections(content: Sequence[Section]) -> list[Shown]:
    """Prepare all sections; a name has the same color in all of them."""
    colors = _colors(content)
    return [_shown(section, colors) for section in content]


def _shown(section: Section, colors: Mapping[str, int]) -> Shown:
    if isinstance(section, Grid):
        return Shown(title=section.title, note=section.note, head=(), rows=(), grid=section)
    if isinstance(section, Groups):
        return Shown(title=section.title, note=section.note, head=(), rows=(), opened=section)
    if isinstance(section, Table):
        return _table(section)
    if isinstance(section, Scatter):
        return _scatter(section, colors)
    if isinstance(section, Distributions):
        return _distributions(section, colors)
    return _bars(section) if isinstance(section, Bars) else _matrix(section)


def _colors(content: Iterable[Section]) -> dict[str, int]:
    """The color index of each name, or of its group, in order of appearance."""
    names: dict[str, int] = {}
    for section in content:
        if isinstance(section, Scatter):
            for point in section.points:
                names.setdefault(point.group or point.name, len(names))
        elif isinstance(section, Distributions):
            for name in section.values:
                names.setdefault(name, len(names))
    return names


def _table(table: Table) -> Shown:
    rows = table.rows[:MOST_ROWS]
    left_out = f"The first {MOST_ROWS:,} of {len(table.rows):,} rows." if len(rows) < len(table.rows) else ""
    return _section(table, table.columns, rows, left_out)


def _section(
    section: Section,
    columns: Sequence[Column],
    rows: Iterable[Mapping[str, Any]],
    note: str = "",
    **plot: Any,
) -> Shown:
    """A section with the rows of its table; `note` follows the section's own."""
    return Shown(
        title=section.title,
        note=_joined(section.note, note),
        head=[(column.title, column.kind != "text") for column in columns],
        rows=[[_cell(row.get(column.key), column) for column in columns] for row in rows],
        **plot,
    )


def _cell(value: Any, column: Column) -> Cell:
    if isinstance(value, tuple):
        value, low, high = value
        text = _with_interval(value, (low, high), column.kind)
    else:
        text = written(value, column.kind)
    order = float(value) if column.kind != "text" and is_number(value) else None
    return Cell(text, order, missing=text == MISSING)


def _scatter(scatter: Scatter, colors: Mapping[str, int]) -> Shown:
    places = [point for point in scatter.points if _finite(point.x) and _finite(point.y)]
    drawn = choose_marks(places, scatter.better)
    largest = max((point.size for point in drawn if _finite(point.size) and point.size), default=0.0)
    columns = [
        Column("name", "name"),
        Column("x", scatter.x_title, scatter.x_kind),
        Column("y", scatter.y_title, scatter.y_kind),
    ]
    if any(point.interval for point in scatter.points):
        columns += [Column("low", "low", scatter.y_kind), Column("high", "high", scatter.y_kind)]
    if any(is_number(point.size) for point in scatter.points):
        columns.append(Column("size", scatter.size_title or "size", scatter.size_kind))
    marks = []
    for point in drawn:
        lines = [(scatter.x_title, written(point.x, scatter.x_kind))]
        low, high = _bounds(point.interval)
        lines.append((scatter.y_title, _with_interval(point.y, point.interval, scatter.y_kind)))
        if _finite(point.size):
            lines.append((scatter.size_title or "size", written(point.size, scatter.size_kind)))
        marks.append(
            {
                "name": point.name,
                "x": float(point.x),
                "y": float(point.y),
                "low": low,
                "high": high,
                "diameter": _diameter(point.size, largest) if len(drawn) < _MANY_MARKS else LEAST_MARK,
                "hollow": bool(largest) and not _finite(point.size),
                "color": colors[point.group or point.name],
                "lines": lines,
            }
        )
    groups = dict.fromkeys(point.group for point in drawn if point.group)
    missing = [point for point in scatter.points if not (_finite(point.x) and _finite(point.y))]
    plot = {
        "type": "scatter",
        "x": _axis(scatter.x_title, scatter.x_kind, [point.x for point in drawn]),
        "y": _axis(scatter.y_title, scatter.y_kind, _heights(drawn)),
        "points": marks,
    }
    return _section(
        scatter,
        columns,
        [_point_row(point) for point in (scatter.points if len(drawn) == len(places) else drawn)],
        _joined(_left_out(scatter, len(drawn), len(places)), _not_drawn(missing)),
        plot=plot if drawn else None,
        legend=_legend(scatter, largest) if largest else (),
        groups=[(name, colors[name]) for name in groups],
        caption=_area(scatter, any(mark["hollow"] for mark in marks)) if largest else "",
    )


def _left_out(scatter: Scatter, shown: int, total: int) -> str:
    if shown == total:
        return ""
    which = (
        "those that no other one of the same color beats on both axes, and an even share of the others"
        if scatter.better
        else "an even share of them"
    )
    return f"{shown:,} of {total:,} marks are shown: {which}."


def _not_drawn(points: Sequence[Point]) -> str:
    return f"Not in the plot: {', '.join(point.name for point in points)}." if points else ""


def _heights(points: Sequence[Point]) -> list[float]:
    """The values of the vertical axis, and the ends of the whiskers."""
    bounds = [bound for point in points for bound in _bounds(point.interval) if bound is not None]
    return [*(point.y for point in points), *bounds]


def _point_row(point: Point) -> dict[str, Any]:
    low, high = point.interval or (None, None)
    return {"name": point.name, "x": point.x, "y": point.y, "size": point.size, "low": low, "high": high}


def _bounds(interval: tuple[float | None, float | None] | None) -> tuple[float, float] | tuple[None, None]:
    """Both ends of an interval; None for both if one of them is not finite."""
    low, high = interval or (None, None)
    return (float(low), float(high)) if _finite(low) and _finite(high) else (None, None)


def _with_interval(value: Any, interval: tuple[float | None, float | None] | None, kind: Kind) -> str:
    """A value with its interval as text."""
    low, high = _bounds(interval)
    between = "" if low is None else f" ({written(low, kind).removesuffix(' %')} to {written(high, kind)})"
    return written(value, kind) + between


def _area(scatter: Scatter, hollow: bool) -> str:
    what = scatter.size_title or "size"
    return f"Area: {what}; hollow: no {what}" if hollow else f"Area: {what}"


def _diameter(size: float | None, largest: float) -> float:
    """Diameter in pixels of a mark whose area is proportional to `size`."""
    if not largest or size is None or not _finite(size):
        return MARK_WITHOUT_SIZE
    return round(max(LEAST_MARK, LARGEST_MARK * math.sqrt(max(size, 0.0) / largest)), 1)


def _legend(scatter: Scatter, largest: float) -> list[tuple[float, str]]:
    """Example marks, without those that would be smaller than the minimum diameter."""
    sizes = (_round_down(largest / 20), _round_down(largest / 4), largest)
    marks = [(_diameter(size, largest), written(size, scatter.size_kind)) for size in sizes]
    return [mark for mark in marks if mark[0] > LEAST_MARK]


def _round_down(value: float) -> float:
    """Round down to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (5, 2, 1) if step * power <= value * 1.0001)


def _distributions(distributions: Distributions, colors: Mapping[str, int]) -> Shown:
    boxes = {
        name: [value for value in values if _finite(value)] for name, values in distributions.values.items()
    }
    columns = [Column("name", "name"), Column("count", "values", "number")]
    columns += [
        Column(title, title, distributions.kind)
        for title in ("lowest", "p25", "median", "p75", "p90", "p99", "highest")
    ]
    drawn = [
        {"name": name, "color": colors[name], "values": [_shortened(value) for value in values]}
        for name, values in boxes.items()
        if values
    ]
    plot = {
        "type": "boxes",
        "x": _axis(
            distributions.y_title, distributions.kind, [_quantile(v, 0.5) for v in boxes.values() if v]
        ),
        "boxes": drawn,
    }
    rows = [{"name": name, **_figures(values)} for name, values in boxes.items()]
    return _section(distributions, columns, rows, plot=plot if drawn else None)


def _figures(values: Sequence[float]) -> dict[str, Any]:
    places = {"lowest": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "highest": 1.0}
    return {
        "count": len(values),
        **{name: _quantile(values, place) for name, place in places.items() if values},
    }


def _quantile(values: Sequence[float], place: float) -> float:
    """A quantile by linear interpolation, as in numpy."""
    ordered = sorted(values)
    position = place * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _bars(bars: Bars) -> Shown:
    columns = [Column("name", "name"), Column("value", bars.y_title, bars.kind)]
    if bars.intervals:
        columns += [Column("low", "low", bars.kind), Column("high", "high", bars.kind)]
    rows: list[dict[str, Any]] = []
    for name, value in bars.values.items():
        low, high = bars.intervals.get(name, (None, None))
        rows.append({"name": name, "value": value, "low": low, "high": high})
    drawn = []
    for row in rows:
        if not _finite(row["value"]):
            continue
        low, high = _bounds((row["low"], row["high"]))
        drawn.append(
            {
                "name": row["name"],
                "value": float(row["value"]),
                "low": low,
                "high": high,
                "text": _with_interval(row["value"], (low, high), bars.kind),
            }
        )
    plot = {"type": "bars", "x": _axis(bars.y_title, bars.kind), "bars": drawn}
    return _section(bars, columns, rows, plot=plot if drawn else None)


def _matrix(matrix: Matrix) -> Shown:
    labels = [str(label) for label in matrix.labels]
    cells = [
        (row, column, int(count))
        for row, counts in enumerate(matrix.counts)
        for column, count in enumerate(counts)
        if count
    ]
    confused = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])
    totals = [sum(map(int, counts)) for counts in matrix.counts]
    columns = [
        Column("true", "true class"),
        Column("read", "predicted class"),
        Column("count", "images", "number"),
        Column("share", "share of the true class", "percent"),
    ]
    rows = [
        {"true": labels[row], "read": labels[column], "count": count, "share": count / totals[row]}
        for row, column, count in confused[:MOST_CONFUSIONS]
    ]
    plot = {"type": "matrix", "labels": labels, "cells": cells}
    caption = "Rows: true class. Blue: correct. Orange: confused. The color scale is logarithmic."
    return _section(
        matrix,
        columns,
        rows,
        plot=plot if labels else None,
        values_title="The most frequent confusions" if len(confused) > MOST_CONFUSIONS else "All confusions",
        caption=caption,
    )


def _axis(title: str, kind: str, values: Sequence[float] = ()) -> dict[str, Any]:
    """Title and number format of an axis; logarithmic if values differ by more than a factor of 20."""
    log = bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    return {"title": title + (" – log scale" if log else ""), "kind": kind, "log": log}  # noqa: RUF001 - a dash


def _finite(value: Any) -> TypeGuard[float]:
    return is_number(value) and math.isfinite(value)


def _shortened(value: float) -> float:
    """Round to six digits, to keep files with thousands of values small."""
    return float(f"{value:.6g}")


def _joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
