"""Chooses the marks of a scatter plot that has too many: the Pareto fronts, and an even share of the others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.report.content import Better, Point

MOST_MARKS = 2000
"""Maximum number of marks in a plot, unless more are on its fronts: Chromium draws them in half a second."""


def choose_marks(points: Sequence[Point], better: Better | None) -> list[Point]:
    """At most `MOST_MARKS` points, in their order, and all on the fronts.

    Args:
        points: with finite coordinates.
        better: which y is better at the same x, where a smaller x is better; None if neither.
    """
    if len(points) <= MOST_MARKS:
        return list(points)
    front = _fronts(points, better) if better else set()
    others = sorted(
        set(range(len(points))) - front, key=lambda number: (points[number].group, points[number].x)
    )
    room = max(0, MOST_MARKS - len(front))
    kept = front | {others[place * len(others) // room] for place in range(room)}
    return [points[number] for number in sorted(kept)]


def _fronts(points: Sequence[Point], better: Better) -> set[int]:
    """Numbers of the points that no other one of their group beats: none has a smaller x and a better y."""
    sign = 1.0 if better == "higher" else -1.0
    best: dict[str, float] = {}
    front = set()
    for number in sorted(range(len(points)), key=lambda number: (points[number].x, -sign * points[number].y)):
        point = points[number]
        if sign * point.y > best.get(point.group, -math.inf):
            best[point.group] = sign * point.y
            front.add(number)
    return front
