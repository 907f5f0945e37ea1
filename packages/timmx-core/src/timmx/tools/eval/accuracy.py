"""Shares of right answers with their intervals, and how two readers of the same images differ."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z = 1.959963984540054
"""Of the normal distribution, for 95 %."""

Interval = tuple[float, float]


def wilson(count: int, total: int) -> Interval:
    """The 95 % interval of a share, by E. B. Wilson's score method (1927), which holds near 0 and 1 too.

    Args:
        count: of `total`, which is at least 1.

    Returns:
        Low and high, in [0, 1].
    """
    share, square = count / total, _Z**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total**2)) / (1 + square / total)
    return max(0.0, middle - half) if count else 0.0, min(1.0, middle + half) if count < total else 1.0


@dataclass(frozen=True)
class Paired:
    """How many images two readers read right.

    Attributes:
        both: read right by both.
        first: by the first alone.
        second: by the second alone.
        neither: by none.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def total(self) -> int:
        return self.both + self.first + self.second + self.neither

    @property
    def difference(self) -> float:
        """The first's share of right answers minus the second's."""
        return (self.first - self.second) / self.total

    @property
    def interval(self) -> Interval:
        """The 95 % interval of `difference`, by method 10 of R. G. Newcombe.

        Statistics in Medicine 17 (1998), 2635-2650: the score intervals of the two shares, joined with the
        correlation of the pairs, corrected for continuity.
        """
        total = self.total
        ones, twos = self.both + self.first, self.both + self.second
        (low1, high1), (low2, high2) = wilson(ones, total), wilson(twos, total)
        share1, share2 = ones / total, twos / total
        phi = self._correlation(ones, twos)
        below = _root(share1 - low1, high2 - share2, phi)
        above = _root(high1 - share1, share2 - low2, phi)
        return self.difference - below, self.difference + above

    @property
    def p_value(self) -> float:
        """How likely a difference at least this large is between equally good readers: McNemar's exact test."""
        discordant, less = self.first + self.second, min(self.first, self.second)
        if not discordant:
            return 1.0
        logs = [
            math.lgamma(discordant + 1) - math.lgamma(k + 1) - math.lgamma(discordant - k + 1)
            for k in range(less + 1)
        ]
        return min(1.0, 2 * math.fsum(math.exp(log - discordant * math.log(2)) for log in logs))

    def _correlation(self, ones: int, twos: int) -> float:
        total = self.total
        product = ones * (total - ones) * twos * (total - twos)
        if not product:
            return 0.0
        found = self.both * self.neither - self.first * self.second
        return (max(found - total / 2, 0.0) if found > 0 else found) / math.sqrt(product)


def _root(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))
