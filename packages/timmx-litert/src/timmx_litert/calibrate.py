"""What values flow through a float `.tflite` for typical inputs, and the range that each tensor is given for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from timmx.plugin import CalibrationMethod, Observed

from timmx_litert.runner import open_interpreter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from timmx_litert.graph import Graph


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
    observed = {index: Observed() for index in names}
    interpreter = open_interpreter(content, keep_all=True)
    entry = interpreter.get_input_details()[0]["index"]
    for array in inputs:
        interpreter.set_tensor(entry, array)
        interpreter.invoke()
        for index in names:
            observed[index].widen(interpreter.get_tensor(index))
    if method is not CalibrationMethod.MINMAX:
        for array in inputs:
            interpreter.set_tensor(entry, array)
            interpreter.invoke()
            for index in names:
                observed[index].count(interpreter.get_tensor(index))
    return {names[index]: seen.range(method, bits) for index, seen in observed.items()}


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
