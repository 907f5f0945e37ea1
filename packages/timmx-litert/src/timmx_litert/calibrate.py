"""What values flow through a float `.tflite` for typical inputs, and the range that each tensor is given for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from timmx_litert.plugin import CalibrationMethod
from timmx_litert.runner import open_interpreter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from timmx_litert.graph import Graph

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

    Attributes:
        low, high: the least and greatest.
        counts: a histogram of some of them between `low` and `high`; None where no method needs one.
    """

    low: float
    high: float
    counts: np.ndarray | None = None


def observe(
    content: bytes, graph: Graph, inputs: Iterable[np.ndarray], method: CalibrationMethod, bits: int
) -> dict[str, tuple[float, float]]:
    """The range of every float tensor that depends on the input, by name.

    Args:
        content: the float `.tflite`.
        inputs: as the file takes them, one at a time; gone through twice unless the method is minmax.
        bits: of the activations.
    """
    names = {
        index: graph.tensors[index].name
        for operation in graph.operations
        for index in (*graph.activations(operation), *operation.outputs)
        if graph.tensors[index].floating and 0 not in graph.tensors[index].shape
    }
    observed: dict[int, Observed] = {}
    interpreter = open_interpreter(content, keep_all=True)
    entry = interpreter.get_input_details()[0]["index"]
    for array in inputs:
        interpreter.set_tensor(entry, array)
        interpreter.invoke()
        for index in names:
            values = interpreter.get_tensor(index)
            low, high = float(values.min()), float(values.max())
            seen = observed.setdefault(index, Observed(low, high))
            seen.low, seen.high = min(seen.low, low), max(seen.high, high)
    if method is not CalibrationMethod.MINMAX:
        for array in inputs:
            interpreter.set_tensor(entry, array)
            interpreter.invoke()
            for index in names:
                _count(observed[index], interpreter.get_tensor(index))
    return {names[index]: chosen_range(seen, method, bits) for index, seen in observed.items()}


def _count(seen: Observed, values: np.ndarray) -> None:
    flat = values.reshape(-1)
    step = max(1, flat.size // _PER_INPUT) | 1  # odd, so that it does not fall on the same channels each time
    counts, _ = np.histogram(flat[::step], bins=_BINS, range=(seen.low, seen.high))
    seen.counts = counts if seen.counts is None else seen.counts + counts


def chosen_range(seen: Observed, method: CalibrationMethod, bits: int) -> tuple[float, float]:
    """The range that a method gives for what was seen; 0 is in it, as quantization demands."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if seen.counts is None or seen.low == seen.high:
        return low, high
    edges = np.linspace(seen.low, seen.high, _BINS + 1)
    if method is CalibrationMethod.PERCENTILE:
        share = np.cumsum(seen.counts) / seen.counts.sum()
        first = int(np.searchsorted(share, _OUTERMOST, side="right"))
        last = int(np.searchsorted(share, 1 - _OUTERMOST, side="left"))
        return min(float(edges[first]), 0.0), max(float(edges[min(last, _BINS - 1) + 1]), 0.0)
    return _least_error(low, high, (edges[:-1] + edges[1:]) / 2, seen.counts, 2**bits)


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


def statistics(ranges: Mapping[str, tuple[float, float]], graph: Graph) -> dict[str, dict[str, np.ndarray]]:
    """The ranges as the quantizer takes them: arrays of as many axes as the tensor has."""
    axes = {tensor.name: len(tensor.shape) for tensor in graph.tensors}
    return {
        name: {
            "min": np.full((1,) * axes[name], low, np.float32),
            "max": np.full((1,) * axes[name], high, np.float32),
        }
        for name, (low, high) in ranges.items()
    }
