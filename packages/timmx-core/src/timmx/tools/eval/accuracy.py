"""Accuracy with confidence intervals, and the difference of two classifiers on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z = 1.959963984540054
"""The quantile of the normal distribution for a 95 % interval."""

Interval = tuple[float, float]


def wilson(count: int, total: int) -> Interval:
    """The 95 % interval of a proportion, by E. B. Wilson's score method (1927), which is valid near 0 and 1 too.

    Args:
        count: number of successes.
        total: number of trials, at least 1.

    Returns:
        Low and high, in [0, 1].
    """
    share, square = count / total, _Z**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total**2)) / (1 + square / total)
    return max(0.0, middle - half) if count else 0.0, min(1.0, middle + half) if count < total else 1.0


@dataclass(frozen=True)
class Paired:
    """Number of images that two classifiers classify correctly.

    Attributes:
        both: correct for both.
        first: correct only for the first.
        second: correct only for the second.
        neither: wrong for both.
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
        """The accuracy of the first minus that of the second."""
        return (self.first - self.second) / self.total

    @property
    def interval(self) -> Interval:
        """The 95 % interval of `difference`, by method 10 of R. G. Newcombe.

        Statistics in Medicine 17 (1998), 2635-2650: combines the score intervals of the two proportions with the
        correlation of the pairs, with continuity correction.
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
        """The p-value of McNemar's exact test: the probability of such a difference between equal classifiers."""
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
        covariance = self.both * self.neither - self.first * self.second
        return (max(covariance - total / 2, 0.0) if covariance > 0 else covariance) / math.sqrt(product)


def _root(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))
