"""Chooses the operations of a half-precision file that stay in float32, as few as reach a floor."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from timmx.base import reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")

_MOST_SECONDS = 240.0
"""Wall time after which no further operation is moved back."""


@dataclass(frozen=True)
class Float32Set(Generic[Item]):
    """The result of `smallest_float32_set`.

    Attributes:
        items: the operations that stay in float32.
        snr_db: the ratio with them.
        minimal: whether none of them can be left out; False if the time did not suffice to try all.
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
    start = time.perf_counter()
    if measure(frozenset(items)) < floor_db:
        return None
    first, last = (list(_shortest(part, measure, floor_db)) for part in (items, items[::-1]))
    kept = first if len(first) <= len(last) else last
    size = len(kept)
    while size > 1:
        size = (size + 1) // 2
        _leave_out(kept, size, measure, floor_db, start)
    while _leave_out(kept, 1, measure, floor_db, start):
        pass
    in_time = time.perf_counter() - start <= _MOST_SECONDS
    if not in_time:
        reporter().detail("The time did not suffice to move all operations back to half precision.")
    return Float32Set(frozenset(kept), measure(frozenset(kept)), in_time)


def _shortest(
    items: Sequence[Item], measure: Callable[[frozenset[Item]], float], floor_db: float
) -> Sequence[Item]:
    """The shortest beginning that reaches the floor, as far as bisection finds it."""
    too_short, enough = -1, len(items)
    while enough - too_short > 1:
        middle = (too_short + enough) // 2
        if measure(frozenset(items[:middle])) >= floor_db:
            enough = middle
        else:
            too_short = middle
    return items[:enough]


def _leave_out(
    kept: list[Item],
    size: int,
    measure: Callable[[frozenset[Item]], float],
    floor_db: float,
    start: float,
) -> bool:
    """Leave out every part of this size that is not needed; returns whether there was one."""
    changed = False
    for index in reversed(range(0, len(kept), size)):
        if time.perf_counter() - start > _MOST_SECONDS:
            return False
        rest = kept[:index] + kept[index + size :]
        if measure(frozenset(rest)) >= floor_db:
            kept[:] = rest
            changed = True
    return changed
