"""What a report holds: tables, plots and where they come from, without a word on how they look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Kind = Literal["text", "number", "percent", "bytes", "ms", "db"]
"""How a column's values are written: text as it is; a number with up to four digits; a share of 1 in percent; bytes,
milliseconds and decibels in readable units."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: of the rows' values.
        title: above it.
        kind: of its values; None among them is shown as a dash, and sorts last.
    """

    key: str
    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """Rows that sort by a click on a column's title.

    Attributes:
        rows: by column key. Where a value was measured with an interval, it is (value, low, high).
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
        size: what its area stands for; None, where others have one, is a hollow mark.
        interval: (low, high) of y, drawn as whiskers.
    """

    name: str
    x: float
    y: float
    size: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Marks with names, such as accuracy over latency with size as area.

    Attributes:
        x_kind, y_kind, size_kind: how the values at the axes, at the marks and in the legend are written.
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


@dataclass(frozen=True, kw_only=True)
class Distributions:
    """Measured values of several things, side by side as boxes with their outliers.

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
    """One bar a name, such as the accuracy of each class.

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
    """Counts by true (rows) and read (columns) class.

    Attributes:
        labels: of rows and columns alike.
        counts: square.
    """

    title: str
    labels: Sequence[str]
    counts: Sequence[Sequence[int]]
    note: str = ""


Section = Table | Scatter | Distributions | Bars | Matrix


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report.

    Attributes:
        title: what was measured.
        summary: the result in one or two sentences.
        sections: in order.
        environment: machine, versions, data: name -> value.
        commands: what made it, to be typed again.
    """

    title: str
    summary: str
    sections: Sequence[Section]
    environment: Mapping[str, str]
    commands: Sequence[str]
