"""The content of a report: tables, plots, environment and commands, independent of their appearance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Kind = Literal["text", "number", "percent", "bytes", "ms", "s", "db"]
"""How values are formatted: text unchanged; numbers with up to four digits; fractions of 1 in percent; bytes,
milliseconds, seconds and decibels with a unit."""

Tone = Literal["good", "pale", "partly", "warn", "bad", "limit"]
"""The color of an outcome in a grid: blue, light blue, both blue and orange, yellow, orange or violet."""

Better = Literal["higher", "lower"]
"""Which values of a plot's vertical axis are better."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: of its values in the rows.
        title: of the column.
        kind: of its values; None is shown as a dash and sorts last.
    """

    key: str
    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by a click on a column title; with more than ten rows, it can be filtered.

    Attributes:
        rows: values by column key; a value with an interval is (value, low, high).
        note: a sentence or two below it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One mark of a scatter plot.

    Attributes:
        size: shown as its area; None is a hollow mark if other marks have a size.
        interval: (low, high) of y, drawn as whiskers.
        group: marks of one group have one color, and the legend names it; empty for a color per name.
    """

    name: str
    x: float
    y: float
    size: float | None = None
    interval: tuple[float, float] | None = None
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """A scatter plot with names, such as accuracy over latency with size as area.

    Attributes:
        better: which y is better at the same x, where a smaller x is better; None if neither. Of more than 2,000 marks,
            those of each group that no other one beats are always shown, and of the others an even share.
        x_kind, y_kind, size_kind: how the values of axes, marks and legend are formatted.
    """

    title: str
    x_title: str
    y_title: str
    points: Sequence[Point]
    size_title: str = ""
    note: str = ""
    x_kind: Kind = "number"
    y_kind: Kind = "number"
    size_kind: Kind = "number"
    better: Better | None = None


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """A box plot with one box per name, with outliers.

    Attributes:
        values: by name.
        kind: of the values.
    """

    title: str
    y_title: str
    values: Mapping[str, Sequence[float]]
    note: str = ""
    kind: Kind = "number"


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A bar chart with one bar per name, such as the accuracy of each class.

    Attributes:
        intervals: (low, high) by name, drawn as whiskers; may be empty.
        kind: of the values.
    """

    title: str
    y_title: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    note: str = ""
    kind: Kind = "number"


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: counts by true (rows) and predicted (columns) class.

    Attributes:
        labels: of both rows and columns.
        counts: square.
    """

    title: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """One cell of a grid.

    Attributes:
        text: what the cell shows.
        tone: its color.
        detail: lines that are shown on hover and on focus.
        order: the number that the cell is sorted by.
    """

    text: str
    tone: Tone
    detail: str
    order: float


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Outcomes by row and column, each with its color, and with details on hover and on focus.

    Attributes:
        corner: title of the column with the names of the rows.
        columns: titles.
        rows: by name, one outcome per column; None for an empty cell.
        legend: what each tone means.
    """

    title: str
    corner: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Outcome | None]]
    legend: Mapping[Tone, str]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Items that have one reason.

    Attributes:
        title: of the group.
        text: the reason.
        hint: how to fix it.
        names: of its items.
        command: that repeats one of them.
    """

    title: str
    text: str
    hint: str = ""
    names: Sequence[str] = ()
    command: str = ""


@dataclass(frozen=True)
class Groups:
    """Groups that can be opened, in order."""

    title: str
    groups: Sequence[Group]
    note: str = ""


Section = Table | Scatter | Distributions | Bars | Matrix | Grid | Groups


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report.

    Attributes:
        title: of the report.
        summary: the result in one or two sentences.
        sections: in order.
        environment: machine, versions and data, by name.
        commands: that reproduce it.
    """

    title: str
    summary: str
    sections: Sequence[Section]
    environment: Mapping[str, str]
    commands: Sequence[str]
