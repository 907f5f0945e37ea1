"""Statistics of latencies: quantiles, whether they have settled, and the ratio of two with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

SETTLED_BLOCKS = 5
SETTLED_VARIATION = 0.02
"""Warm-up ends when the last 5 blocks of runs vary by at most 2 % (standard deviation divided by mean): the steady
state of Georges, Buytaert and Eeckhout, "Statistically rigorous Java performance evaluation", OOPSLA 2007, section 3.2.
Here a block is the median of as many runs as fill 20 ms, at least one."""

NOISY_SPREAD = 0.1
"""A case whose rounds spread by more than this is reported as noisy."""

CONFIDENCE = 0.95
_RESAMPLES = 1000
LEAST_ROUNDS = 5
"""The minimum number of rounds for an interval."""
_EXACT = 1e-9
"""Shares that differ by less are equal: they are sums of many rounded values."""


def settled(blocks: Sequence[float]) -> bool:
    """Whether the last blocks of a warm-up vary so little that it can end."""
    if len(blocks) < SETTLED_BLOCKS:
        return False
    return variation(blocks[-SETTLED_BLOCKS:]) <= SETTLED_VARIATION


def variation(values: Sequence[float]) -> float:
    """Standard deviation divided by mean."""
    return float(np.std(values, ddof=1) / np.mean(values))


def quantiles(values: Sequence[float], at: Sequence[float] = QUANTILES) -> tuple[float, ...]:
    """The values below which these shares of `values` lie, by linear interpolation."""
    return tuple(map(float, np.quantile(np.asarray(values, np.float64), at)))


def spread(rounds: Sequence[float]) -> float:
    """How much rounds differ: their interquartile range divided by their median."""
    low, middle, high = quantiles(rounds, (0.25, 0.5, 0.75))
    return (high - low) / middle


def pooled_quantiles(rounds: Sequence[Sequence[float]], at: Sequence[float] = QUANTILES) -> tuple[float, ...]:
    """Quantiles of all runs, in which each round has the same weight, whatever its number of runs.

    A round is limited by time, so a fast round has more runs: unweighted, fast rounds would count more. A quantile is
    where the weighted share of runs reaches `at`, or the mean of two runs if it falls between them (definition 2 of
    Hyndman and Fan, "Sample quantiles in statistical packages", 1996).

    Args:
        rounds: latencies by round; none is empty.
        at: shares, 0 to 1.
    """
    values = np.concatenate([np.asarray(runs, np.float64) for runs in rounds])
    weights = np.concatenate([np.full(len(runs), 1 / (len(rounds) * len(runs))) for runs in rounds])
    order = np.argsort(values, kind="stable")
    values, below = values[order], np.cumsum(weights[order])
    last = len(values) - 1
    low = np.minimum(np.searchsorted(below, np.asarray(at) - _EXACT, "left"), last)
    high = np.minimum(np.searchsorted(below, np.asarray(at) + _EXACT, "right"), last)
    return tuple(map(float, (values[low] + values[high]) / 2))


def ratio_of_medians(
    rounds: Sequence[Sequence[float]], base: Sequence[Sequence[float]], seed: int = 0
) -> tuple[float, tuple[float, float] | None]:
    """The ratio of the medians of two cases, by `pooled_quantiles`, with its interval.

    The interval is the percentile bootstrap of the ratio (Efron and Tibshirani, "An Introduction to the Bootstrap",
    1993, chapter 13). Rounds are resampled, not runs, since the runs of a round share the machine's state; the same
    rounds are drawn for both, so that common drift cancels. Reporting a ratio with its interval follows Kalibera and
    Jones, "Rigorous benchmarking in reasonable time", ISMM 2013.

    Args:
        rounds: latencies by round.
        base: latencies of the base, in the same rounds.
        seed: of the resampling.

    Returns:
        The ratio and its 95 % interval, which is None for fewer than 5 rounds.
    """
    ratio = pooled_quantiles(rounds, (0.5,))[0] / pooled_quantiles(base, (0.5,))[0]
    if len(rounds) < LEAST_ROUNDS:
        return ratio, None
    drawn = np.random.default_rng(seed).multinomial(
        len(rounds), [1 / len(rounds)] * len(rounds), size=_RESAMPLES
    )
    ratios = _drawn_medians(rounds, drawn) / _drawn_medians(base, drawn)
    low, high = quantiles(ratios.tolist(), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return ratio, (low, high)


def _drawn_medians(rounds: Sequence[Sequence[float]], drawn: np.ndarray) -> np.ndarray:
    """The median of each resample, by `pooled_quantiles`.

    Args:
        drawn: how often each round is in each resample, (resamples, rounds).
    """
    runs = [np.sort(np.asarray(each, np.float64)) for each in rounds]
    values = np.unique(np.concatenate(runs))

    def first(above: float) -> np.ndarray:
        """The first value at or below which more than this share of a resample lies, by bisection."""
        low, high = np.zeros(len(drawn), np.int64), np.full(len(drawn), len(values) - 1, np.int64)
        while np.any(low < high):
            middle = (low + high) // 2
            at = values[middle]
            share = np.zeros(len(drawn))
            for number, own in enumerate(runs):
                share += drawn[:, number] * (np.searchsorted(own, at, "right") / len(own))
            enough = share / len(runs) > above
            low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        return np.asarray(values[np.minimum(low, len(values) - 1)])

    return (first(0.5 - _EXACT) + first(0.5 + _EXACT)) / 2
