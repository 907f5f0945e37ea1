"""What a list of latencies tells: quantiles, whether they have settled, and the ratio of two with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

SETTLED_BLOCKS = 5
SETTLED_VARIATION = 0.02
"""Warm-up is over when the last 5 blocks of runs vary by no more than 2 % (standard deviation by mean): the steady
state of Georges, Buytaert and Eeckhout, "Statistically rigorous Java performance evaluation", OOPSLA 2007, section 3.2.
A block here is as many runs as fill 20 ms, at least one, of which the median counts."""

NOISY_SPREAD = 0.1
"""A case whose rounds spread by more than this, is told as noisy."""

CONFIDENCE = 0.95
_RESAMPLES = 4000
_LEAST_ROUNDS = 5
"""Fewer rounds give no interval."""


def settled(blocks: Sequence[float]) -> bool:
    """Whether the last blocks of a warm-up vary so little that it is over."""
    if len(blocks) < SETTLED_BLOCKS:
        return False
    return variation(blocks[-SETTLED_BLOCKS:]) <= SETTLED_VARIATION


def variation(values: Sequence[float]) -> float:
    """Standard deviation by mean."""
    return float(np.std(values, ddof=1) / np.mean(values))


def quantiles(values: Sequence[float], at: Sequence[float] = QUANTILES) -> tuple[float, ...]:
    """The values below which these shares of `values` lie, by linear interpolation."""
    return tuple(map(float, np.quantile(np.asarray(values, np.float64), at)))


def spread(rounds: Sequence[float]) -> float:
    """How far rounds differ: the range of their middle half, as a share of their median."""
    low, middle, high = quantiles(rounds, (0.25, 0.5, 0.75))
    return (high - low) / middle


def ratio_of_medians(
    rounds: Sequence[float], base: Sequence[float], seed: int = 0
) -> tuple[float, tuple[float, float] | None]:
    """How much longer one thing takes than another, by the medians of their rounds.

    The interval is the percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
    13). Rounds are drawn, not runs, since the runs of a round share the machine's state; and both are drawn from the
    same rounds, so that drift which hits both cancels. That a ratio is to be told with its interval: Kalibera and
    Jones, "Rigorous benchmarking in reasonable time", ISMM 2013.

    Args:
        rounds: one latency a round.
        base: of the other thing, in the same rounds.
        seed: of the drawing.

    Returns:
        The ratio, and its interval of 95 %; None for fewer than 5 rounds.
    """
    ours, theirs = np.asarray(rounds, np.float64), np.asarray(base, np.float64)
    ratio = float(np.median(ours) / np.median(theirs))
    if len(ours) < _LEAST_ROUNDS:
        return ratio, None
    drawn = np.random.default_rng(seed).integers(0, len(ours), (_RESAMPLES, len(ours)))
    ratios = np.median(ours[drawn], axis=1) / np.median(theirs[drawn], axis=1)
    low, high = quantiles(ratios.tolist(), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return ratio, (low, high)
