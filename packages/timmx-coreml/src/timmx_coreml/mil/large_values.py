"""Notes which operations bring float16 near the end of its range, or beyond it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LARGE = 65504 / 4
_OVERFLOW = 65520
"""From here on, float16 rounds to infinity; its largest number is 65504."""


@dataclass(frozen=True)
class LargeValue:
    """An operation whose float16 result leaves float16's range, or comes near its end.

    Attributes:
        name: the operation's result.
        op: its type.
        largest: the largest magnitude over all runs so far, before rounding to float16; inf for a NaN.
        overflowed: a result was not finite though everything that went in was.
    """

    name: str
    op: str
    largest: float
    overflowed: bool


class Watch:
    """Keeps the largest magnitude of each float16 result over all runs.

    Args:
        names: of all results, in program order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._seen: dict[str, LargeValue | None] = dict.fromkeys(names)

    @property
    def large_values(self) -> list[LargeValue]:
        """What was large, in program order."""
        return [value for value in self._seen.values() if value is not None]

    def note(
        self, name: str, op: str, result: torch.Tensor, arguments: Callable[[], Iterable[torch.Tensor]]
    ) -> None:
        """Look at one result.

        Args:
            name: of the result.
            op: the operation's type.
            result: before it is rounded to float16.
            arguments: gives what the operation was given; asked only where the result is not finite.
        """
        if result.numel() == 0:
            return
        low, high = torch.aminmax(result)
        largest = max(-float(low), float(high))
        if largest < _LARGE:
            return
        overflowed = not largest < _OVERFLOW  # a NaN is not less than anything
        if overflowed and not all(bool(torch.isfinite(tensor).all()) for tensor in arguments()):
            return
        largest = math.inf if math.isnan(largest) else largest
        before = self._seen[name]
        if before is not None:
            overflowed, largest = overflowed or before.overflowed, max(largest, before.largest)
        self._seen[name] = LargeValue(name, op, largest, overflowed)
