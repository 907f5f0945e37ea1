"""The range that an activation is given, from the values that it takes for typical inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timmx.contract import CalibrationMethod

_BINS = 2048
_PER_INPUT = 2**14
"""How many values of a tensor an input adds to its histogram; more would not move the ranges."""
_OUTERMOST = 1e-4
"""The share of values that `percentile` leaves outside on each side."""
_CANDIDATES = 64
"""How many places `mse` tries for each end of a range."""


@dataclass
class Observed:
    """The values of one tensor over all inputs.

    All inputs are gone through with `widen`, and once more with `count` where the method is not minmax.

    Attributes:
        low, high: the least and greatest.
        counts: a histogram of some of them between `low` and `high`; None where no method needs one.
    """

    low: float = np.inf
    high: float = -np.inf
    counts: np.ndarray | None = None

    def widen(self, values: np.ndarray) -> None:
        """Take in the values of one input."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def count(self, values: np.ndarray) -> None:
        """Take the values of one input into the histogram."""
        flat = values.reshape(-1)
        step = (
            max(1, flat.size // _PER_INPUT) | 1
        )  # odd, so that it does not fall on the same channels each time
        counts, _ = np.histogram(flat[::step], bins=_BINS, range=(self.low, self.high))
        self.counts = counts if self.counts is None else self.counts + counts

    def range(self, method: CalibrationMethod, bits: int) -> tuple[float, float]:
        """What a method gives for so many bits; 0 is in it, as quantization demands."""
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
    low: float, high: float, centres: np.ndarray, counts: np.ndarray, levels: int
) -> tuple[float, float]:
    """Draw in the far end, then the other one, to where so many levels represent the values with the least error."""
    used = counts > 0
    centres, counts = centres[used], counts[used]
    for _ in range(2):
        for moves_high in (high >= -low, high < -low):
            end = high if moves_high else low
            candidates = end * np.linspace(1, 1 / _CANDIDATES, _CANDIDATES)
            lows = np.full(_CANDIDATES, low) if moves_high else candidates
            highs = candidates if moves_high else np.full(_CANDIDATES, high)
            best = int(np.argmin(_errors(lows, highs, centres, counts, levels)))
            low, high = float(lows[best]), float(highs[best])
    return low, high


def _errors(
    lows: np.ndarray, highs: np.ndarray, centres: np.ndarray, counts: np.ndarray, levels: int
) -> np.ndarray:
    """Weighted squared error of rounding `centres` to so many levels, for each range."""
    scales = np.maximum((highs - lows) / (levels - 1), np.finfo(np.float32).tiny)[:, None]
    rounded = np.rint(np.clip(centres, lows[:, None], highs[:, None]) / scales) * scales
    return np.asarray(((rounded - centres) ** 2 * counts).sum(axis=1))
