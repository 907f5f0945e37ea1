"""Records the operations whose float16 results overflow or nearly overflow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LARGE = 65504 / 4
_OVERFLOW = 65520
"""From here on, float16 rounds to infinity; its maximum is 65504."""


@dataclass(frozen=True)
class LargeValue:
    """An operation whose float16 result overflows or nearly overflows.

    Attributes:
        name: the name of the result.
        op: the operation's type.
        largest: the largest magnitude over all runs so far, before rounding to float16; inf for a NaN.
        overflowed: a result was not finite although all arguments were.
    """

    name: str
    op: str
    largest: float
    overflowed: bool


class Watch:
    """Keeps the largest magnitude of each float16 result over all runs.

    Args:
        names: the names of all results, in program order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._values: dict[str, LargeValue | None] = dict.fromkeys(names)

    @property
    def large_values(self) -> list[LargeValue]:
        """The large values, in program order."""
        return [value for value in self._values.values() if value is not None]

    def record(
        self, name: str, op: str, result: torch.Tensor, arguments: Callable[[], Iterable[torch.Tensor]]
    ) -> None:
        """Record a result if it is large.

        Args:
            name: the name of the result.
            op: the operation's type.
            result: the value before rounding to float16.
            arguments: returns the operation's arguments; called only if the result is not finite.
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
        previous = self._values[name]
        if previous is not None:
            overflowed, largest = overflowed or previous.overflowed, max(largest, previous.largest)
        self._values[name] = LargeValue(name, op, largest, overflowed)
