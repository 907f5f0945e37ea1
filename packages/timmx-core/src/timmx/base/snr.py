"""Signal-to-noise ratio of a candidate's outputs against a reference, batch by batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

_VACUOUS = 1e-12
"""At or below this share of the reference's energy, a signal cannot be distinguished from float32 rounding."""

_CHUNK = 1 << 20
"""Elements converted to float64 at a time: 8 MB per array."""


class SignalToNoise:
    """Compares one output of a candidate with the reference, over any number of batches; keeps no samples.

    *Signal* is how much the reference varies between inputs: the squared deviation from the mean over all
    inputs, summed over all elements. *Noise* is the sum of the squared differences. A constant that all outputs
    share, which hides errors from a cosine, therefore does not count as signal.

    Source: batches are merged by the pairwise update of Chan, Golub, LeVeque, "Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances" (1979), which is stable for large offsets.

    Args:
        threshold: the value from which an element is a positive decision, for `label_agreement`.

    Attributes:
        count: number of samples.
        signal: see above; in squared units of the output.
        noise: see above; NaN after a value that is not finite.
        energy: sum of the reference's squares.
        cosine_min: the smallest cosine between a sample's reference and candidate, both flattened.
        max_abs_diff: the largest absolute difference, in the output's units.
    """

    def __init__(self, threshold: float | None = None) -> None:
        self.count = 0
        self.signal = 0.0
        self.noise = 0.0
        self.energy = 0.0
        self.cosine_min = 1.0
        self.max_abs_diff = 0.0
        self._mean: NDArray[np.float64] | None = None
        self._shape: tuple[int, ...] = ()
        self._same_top1 = 0
        self._threshold = threshold
        self._same_labels = 0

    def update(self, reference: ArrayLike, candidate: ArrayLike) -> None:
        """Add one batch.

        Args:
            reference: (N, ...) reference outputs.
            candidate: (N, ...) outputs to compare, of the same shape.

        Raises:
            ValueError: the two shapes differ, or differ from an earlier batch's in more than N.
        """
        reference, candidate = np.asarray(reference), np.asarray(candidate)
        if reference.shape != candidate.shape or reference.ndim == 0:
            raise ValueError(f"The reference is {reference.shape}, the candidate {candidate.shape}.")
        if self._mean is None:
            self._shape = reference.shape[1:]
            self._mean = np.zeros(math.prod(self._shape))
        elif reference.shape[1:] != self._shape:
            raise ValueError(f"Earlier samples are {self._shape}, these are {reference.shape[1:]}.")
        rows = max(1, _CHUNK // max(1, self._mean.size))
        for start in range(0, len(reference), rows):
            chunk = slice(start, start + rows)
            true, judged = (
                np.asarray(array[chunk], dtype=np.float64).reshape(-1, self._mean.size)
                for array in (reference, candidate)
            )
            self._add_signal(true, self._mean)
            self._add_noise(true, judged)

    @property
    def snr_db(self) -> float:
        """Signal over noise in dB: inf without noise, -inf without signal or with a value that is not finite."""
        return _decibels(self.signal, self.noise)

    @property
    def energy_snr_db(self) -> float:
        """Energy of the reference over noise in dB, for outputs that do not vary with the input."""
        return _decibels(self.energy, self.noise)

    @property
    def vacuous(self) -> bool:
        """True when the reference does not depend on the input, so that `snr_db` has no signal."""
        return self.signal <= _VACUOUS * self.energy

    @property
    def top1_agreement(self) -> float | None:
        """The share of samples with the same argmax, 0 to 1; None unless the output is (N, C), C > 1."""
        if not self.count or len(self._shape) != 1 or self._shape[0] < 2:
            return None
        return self._same_top1 / self.count

    @property
    def label_agreement(self) -> float | None:
        """The share of elements on the same side of the threshold, 0 to 1; None without a threshold or elements."""
        elements = self.count * math.prod(self._shape)
        return None if self._threshold is None or not elements else self._same_labels / elements

    def _add_signal(self, true: NDArray[np.float64], mean: NDArray[np.float64]) -> None:
        """Merge a chunk (n, elements) into the running mean, which is updated in place."""
        before, added = self.count, len(true)
        self.count += added
        chunk_mean = true.mean(axis=0)
        deviation = true - chunk_mean
        shift = chunk_mean - mean
        self.signal += _dot(deviation) + _dot(shift) * before * added / self.count
        self.energy += _dot(true)
        mean += shift * (added / self.count)

    def _add_noise(self, true: NDArray[np.float64], judged: NDArray[np.float64]) -> None:
        """Compare a chunk (n, elements) of both."""
        if not np.isfinite(judged).all() or not np.isfinite(true).all():
            self.noise = self.cosine_min = self.max_abs_diff = math.nan
            return
        difference = judged - true
        self.noise += _dot(difference)
        if difference.size:
            # np.maximum and np.minimum propagate the NaN of an earlier chunk.
            self.max_abs_diff = float(np.maximum(self.max_abs_diff, np.abs(difference).max()))
            self.cosine_min = float(np.minimum(self.cosine_min, _cosines(true, judged).min()))
        if self._threshold is not None:
            self._same_labels += int(((true >= self._threshold) == (judged >= self._threshold)).sum())
        if true.shape[1]:
            self._same_top1 += int((true.argmax(axis=1) == judged.argmax(axis=1)).sum())


def worst_db(true: Iterable[ArrayLike], judged: Iterable[ArrayLike]) -> float:
    """The smallest signal-to-noise ratio over all outputs in dB; for an output without signal, of its energy."""
    worst = math.inf
    for pair in zip(true, judged, strict=True):
        ratio = SignalToNoise()
        ratio.update(*pair)
        worst = min(worst, ratio.energy_snr_db if ratio.vacuous else ratio.snr_db)
    return worst


def _decibels(signal: float, noise: float) -> float:
    if math.isnan(noise) or math.isnan(signal):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf


def _dot(array: NDArray[np.float64]) -> float:
    """The sum of squares."""
    return float(np.vdot(array, array))


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each pair of rows: 1 for two zero rows, 0 for a zero row and another one."""
    squares = np.einsum("ij,ij->i", left, left), np.einsum("ij,ij->i", right, right)
    norms = np.sqrt(squares[0]) * np.sqrt(squares[1])
    dots = np.einsum("ij,ij->i", left, right)
    both_zero = (squares[0] == 0) & (squares[1] == 0)
    return np.where(both_zero, 1.0, np.clip(dots / np.where(norms == 0, 1.0, norms), -1.0, 1.0))
