"""Computes the range of an activation from its values for calibration inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timmx.contract import CalibrationMethod

_BINS = 2048
_PER_INPUT = 2**14
"""Number of values that an input adds to a tensor's histogram; more would not change the ranges."""
_OUTERMOST = 1e-4
"""The share of values that `percentile` clips on each side."""
_CANDIDATES = 64
"""Number of values that `mse` tries for each end of a range."""


@dataclass
class Observed:
    """The values of one tensor over all inputs.

    Call `widen` for all inputs, then `count` for all inputs unless the method is minmax.

    Attributes:
        low, high: the smallest and largest value.
        counts: a histogram of some of the values between `low` and `high`; None without `count`.
    """

    low: float = np.inf
    high: float = -np.inf
    counts: np.ndarray | None = None

    def widen(self, values: np.ndarray) -> None:
        """Add the values of one input to the range."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def count(self, values: np.ndarray) -> None:
        """Add the values of one input to the histogram."""
        flat = values.reshape(-1)
        step = max(1, flat.size // _PER_INPUT) | 1  # odd, so that it does not always hit the same channels
        counts, _ = np.histogram(flat[::step], bins=_BINS, range=(self.low, self.high))
        self.counts = counts if self.counts is None else self.counts + counts

    def range(self, method: CalibrationMethod, bits: int) -> tuple[float, float]:
        """The range by a method for this number of bits; it includes 0, as quantization requires."""
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if self.counts is None or self.low == self.high:
            return low, high
        edges = np.linspace(self.low, self.high, _BINS + 1)
        if method is CalibrationMethod.PERCENTILE:
            share = np.cumsum(self.counts) / self.counts.sum()
            first = int(np.searchsorted(share, _OUTERMOST, side="right"))
            last = int(np.searchsorted(share, 1 - _OUTERMOST, side="left"))
            return min(float(edges[first]), 0.0), max(float(edges[min(last, _BINS - 1) + 1]), 0.0)
        return _least_error(low, high, (edges[:-1] + edges[1:]) / 2, self.counts, 2**bits)


def _least_error(
    low: float, high: float, centers: np.ndarray, counts: np.ndarray, levels: int
) -> tuple[float, float]:
    """Narrow the larger end, then the other one, to the range with the smallest squared error for this many levels."""
    occupied = counts > 0
    centers, counts = centers[occupied], counts[occupied]
    for _ in range(2):
        for moves_high in (high >= -low, high < -low):
            end = high if moves_high else low
            candidates = end * np.linspace(1, 1 / _CANDIDATES, _CANDIDATES)
            lows = np.full(_CANDIDATES, low) if moves_high else candidates
            highs = candidates if moves_high else np.full(_CANDIDATES, high)
            best = int(np.argmin(_errors(lows, highs, centers, counts, levels)))
            low, high = float(lows[best]), float(highs[best])
    return low, high


def _errors(
    lows: np.ndarray, highs: np.ndarray, centers: np.ndarray, counts: np.ndarray, levels: int
) -> np.ndarray:
    """Weighted squared error of rounding `centers` to this many levels, for each range."""
    scales = np.maximum((highs - lows) / (levels - 1), np.finfo(np.float32).tiny)[:, None]
    rounded = np.rint(np.clip(centers, lows[:, None], highs[:, None]) / scales) * scales
    return np.asarray(((rounded - centers) ** 2 * counts).sum(axis=1))
