"""Chooses the operations of a half-precision file that stay in float32, as few as reach a floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from timmx.base import reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")

_MOST_MEASUREMENTS = 250
"""After which no further operation is moved back. Not a time, with which a file would depend on the machine's load."""


@dataclass(frozen=True)
class Float32Set(Generic[Item]):
    """The result of `smallest_float32_set`.

    Attributes:
        items: the operations that stay in float32.
        snr_db: the ratio with them.
        minimal: whether none of them can be left out; False if that would have taken too many measurements.
    """

    items: frozenset[Item]
    snr_db: float
    minimal: bool


def smallest_float32_set(
    items: Sequence[Item], measure: Callable[[frozenset[Item]], float], floor_db: float
) -> Float32Set[Item] | None:
    """The operations that must stay in float32 for a ratio to reach its floor; none of them can be left out.

    First the shortest sufficient part from the beginning or from the end of the network is found by bisection:
    rounding is amplified by what follows it. Then operations are left out as long as the floor is reached, in
    halves, quarters and so on, and at last one by one until each of them is needed.

    Args:
        items: the operations in order of execution.
        measure: the ratio in dB if these operations are in float32 and the others are not.
        floor_db: the ratio to reach.

    Returns:
        None if the floor is not reached with all of them in float32.
    """
    search = _Search(measure, floor_db)
    if not search.reaches(items):
        return None
    first, last = (list(search.shortest(part)) for part in (items, items[::-1]))
    kept = first if len(first) <= len(last) else last
    size = len(kept)
    while size > 1:
        size = (size + 1) // 2
        search.leave_out(kept, size)
    while search.leave_out(kept, 1):
        pass
    minimal = search.left > 0
    if not minimal:
        reporter().detail(f"Not all of {len(kept)} operations were tried in half precision.")
    return Float32Set(frozenset(kept), search.measured(kept), minimal)


class _Search(Generic[Item]):
    def __init__(self, measure: Callable[[frozenset[Item]], float], floor_db: float) -> None:
        self._measure, self._floor_db = measure, floor_db
        self._known: dict[frozenset[Item], float] = {}
        self.left = _MOST_MEASUREMENTS

    def measured(self, kept: Sequence[Item]) -> float:
        key = frozenset(kept)
        if key not in self._known:
            self.left -= 1
            self._known[key] = self._measure(key)
        return self._known[key]

    def reaches(self, kept: Sequence[Item]) -> bool:
        return self.measured(kept) >= self._floor_db

    def shortest(self, items: Sequence[Item]) -> Sequence[Item]:
        """The shortest beginning that reaches the floor, as far as bisection finds it."""
        too_short, enough = -1, len(items)
        while enough - too_short > 1:
            middle = (too_short + enough) // 2
            if self.reaches(items[:middle]):
                enough = middle
            else:
                too_short = middle
        return items[:enough]

    def leave_out(self, kept: list[Item], size: int) -> bool:
        """Leave out every part of this size that is not needed; returns whether there was one."""
        changed = False
        for index in reversed(range(0, len(kept), size)):
            rest = kept[:index] + kept[index + size :]
            if self.left > 0 and self.reaches(rest):
                kept[:] = rest
                changed = True
        return changed and self.left > 0
