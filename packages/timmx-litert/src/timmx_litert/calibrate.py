"""Value ranges of the activations of a float `.tflite`, observed on calibration inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from timmx.plugin import HARDSWISH_ZERO, CalibrationMethod, Observed

from timmx_litert.runner import open_interpreter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from timmx_litert.graph import Graph


def observe(
    content: bytes, graph: Graph, inputs: Iterable[np.ndarray], method: CalibrationMethod, bits: int
) -> dict[str, tuple[float, float]]:
    """The range (low, high) of every float tensor that depends on the input, by name.

    If only HARD_SWISH reads a tensor, its range begins where that is zero.

    Args:
        content: the float `.tflite`.
        inputs: as the file takes them, one at a time; iterated twice unless the method is minmax.
        bits: bits per activation, 8 or 16.
    """
    names = {
        index: graph.tensors[index].name
        for operation in graph.operations
        for index in (*graph.activations(operation), *operation.outputs)
        if graph.tensors[index].floating and 0 not in graph.tensors[index].shape
    }
    observed = {index: Observed() for index in names}
    interpreter = open_interpreter(content, keep_all=True)
    input_index = interpreter.get_input_details()[0]["index"]
    for array in inputs:
        interpreter.set_tensor(input_index, array)
        interpreter.invoke()
        for index in names:
            observed[index].widen(interpreter.get_tensor(index))
    if method is not CalibrationMethod.MINMAX:
        for array in inputs:
            interpreter.set_tensor(input_index, array)
            interpreter.invoke()
            for index in names:
                observed[index].count(interpreter.get_tensor(index))
    ranges = {}
    for index, values in observed.items():
        low, high = values.range(method, bits)
        readers = graph.consumers.get(index, [])
        if index not in graph.outputs and all(reader.kind == "HARD_SWISH" for reader in readers):
            low = max(low, HARDSWISH_ZERO)
        ranges[names[index]] = low, high
    return ranges


def statistics(ranges: Mapping[str, tuple[float, float]], graph: Graph) -> dict[str, dict[str, np.ndarray]]:
    """The ranges in the form that the quantizer takes: arrays with as many axes as the tensor."""
    axes = {tensor.name: len(tensor.shape) for tensor in graph.tensors}
    return {
        name: {
            "min": np.full((1,) * axes[name], low, np.float32),
            "max": np.full((1,) * axes[name], high, np.float32),
        }
        for name, (low, high) in ranges.items()
    }
