"""Int8 and float8 as TensorRT takes them: explicit Q/DQ pairs in the graph, which say where 8 bits are and where not.

Quantized is what `targets` chooses: layers with all their inputs, and the shortcuts of convolutional networks.
ONNX Runtime's quantizer with its own settings writes what TensorRT rejects or misreads, and leaves the shortcuts that
end in a convolution; NVIDIA's ModelOpt 0.47 pins onnx versions and brings cupy (November 2026).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from timmx.plugin import ConfigurationError
from timmx_onnx import Names

from timmx_tensorrt.targets import INT8, last_conv, targets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from timmx_tensorrt.targets import Grid, Layer

_MIN_OPSET = 19
"""The first whose Q/DQ nodes take float16 scales."""

_SMALLEST_NORMAL_HALF = 2.0**-14


@dataclass(frozen=True)
class QuantizationReport:
    """What `insert` did.

    Attributes:
        quantized: nodes that compute with 8 bits, how many of each operator.
        left_float: convolutions and matrix products that stay float, how many for each reason.
        activations: values that got a Q/DQ pair, shortcuts among them.
        residual_adds: sums whose shortcut is quantized.
    """

    quantized: Mapping[str, int]
    left_float: Mapping[str, int]
    activations: int
    residual_adds: int


def insert(
    model: ir.Model, ranges: Mapping[str, tuple[float, float]], grid: Grid = INT8
) -> QuantizationReport:
    """Quantize the targets of a graph, in place; to be done before floats are lowered to half precision.

    A value gets one QuantizeLinear and DequantizeLinear, however many targets take it: symmetric, one scale.
    Weights become 8-bit constants with a DequantizeLinear and one scale a channel. Biases stay float. What lies
    outside a range takes its end: float8 too saturates, and has no infinity.

    Args:
        model: a float32 graph of opset 19 or later, of any batch size.
        ranges: the least and greatest number of each of `observed_values`. Where a value has none, or nothing but
            zeros, its layers stay float.
        grid: INT8 or FP8, of the ranges too.

    Raises:
        ConfigurationError: the opset is too old.
    """
    opset = model.opset_imports.get("", 0)
    if opset < _MIN_OPSET:
        raise ConfigurationError(
            f"{grid.name} needs opset {_MIN_OPSET} or later, which has scales in float16, and this graph has opset "
            f"{opset}",
            hint=f"use --opset {_MIN_OPSET} or later",
        )
    chosen = targets(model, grid)
    writer = _Writer(model.graph, ranges, grid)
    quantized: Counter[str] = Counter()
    left_float = Counter(chosen.left_float.values())
    done = set()
    for layer in chosen.layers:
        if not layer.weight.any():
            left_float["weights are all zero"] += 1
        elif not writer.quantize_input(layer.node, 0):
            left_float["no range seen"] += 1
        else:
            writer.quantize_weight(layer)
            quantized[layer.node.op_type] += 1
            done.add(layer.node)
    residual_adds = sum(
        last_conv(shortcut.add.inputs[1 - shortcut.index]) in done
        and writer.quantize_input(shortcut.add, shortcut.index)
        for shortcut in chosen.shortcuts
    )
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    return QuantizationReport(
        dict(sorted(quantized.items())), dict(sorted(left_float.items())), writer.pairs, residual_adds
    )


class _Writer:
    """Puts Q/DQ nodes into a graph, one pair for a value and one dequantization for a weight."""

    def __init__(self, graph: ir.Graph, ranges: Mapping[str, tuple[float, float]], grid: Grid) -> None:
        self._graph = graph
        self._ranges = ranges
        self._grid = grid
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}
        self._zeros: dict[tuple[int, ...], ir.Value] = {}
        given = (*graph.inputs, *graph.initializers.values())
        self._names = Names(
            value.name for value in (*given, *(out for node in graph for out in node.outputs))
        )

    @property
    def pairs(self) -> int:
        """How many values have been quantized, weights apart."""
        return len(self._activations)

    def quantize_input(self, node: ir.Node, index: int) -> bool:
        """Let a node take a value through its Q/DQ pair; False where the value's range tells no scale."""
        value = node.inputs[index]
        assert value is not None
        if value not in self._activations:
            scale = _scale(self._ranges.get(str(value.name), (0.0, 0.0)), self._grid)
            if scale is None:
                return False
            self._activations[value] = self._pair(value, scale)
        node.replace_input_with(index, self._activations[value])
        return True

    def quantize_weight(self, layer: Layer) -> None:
        """Give a layer its weight as 8-bit constant, dequantized channel by channel."""
        source = layer.node.inputs[1]
        assert source is not None
        if (source, layer.axis) not in self._weights:
            numbers, scales = quantized_weight(layer.weight, layer.axis, self._grid)
            constant = self._constant(f"{source.name}_{self._grid.name}", numbers)
            scale = self._constant(f"{source.name}_scale", scales)
            node = self._node("DequantizeLinear", constant, scale, layer.axis)
            self._graph.insert_before(layer.node, node)
            self._weights[source, layer.axis] = node.outputs[0]
        layer.node.replace_input_with(1, self._weights[source, layer.axis])

    def _pair(self, value: ir.Value, step: NDArray[np.float32]) -> ir.Value:
        scale = self._constant(f"{value.name}_scale", step)
        quantize = self._node("QuantizeLinear", value, scale, None)
        dequantize = self._node("DequantizeLinear", quantize.outputs[0], scale, None)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [quantize, dequantize])
        else:
            self._graph.insert_after(producer, [quantize, dequantize])
        return dequantize.outputs[0]

    def _node(self, op_type: str, value: ir.Value, scale: ir.Value, axis: int | None) -> ir.Node:
        """One half of a pair; the zero point is there because TensorRT reads none as int8, and ONNX as uint8."""
        dtype = self._grid.dtype if op_type == "QuantizeLinear" else ir.DataType.FLOAT
        name = self._names.unused(f"{value.name}_{op_type}")
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        output = ir.Value(
            name=self._names.unused(f"{name}_output"), type=ir.TensorType(dtype), shape=value.shape
        )
        return ir.Node(
            "", op_type, [value, scale, self._zero_point(scale)], attributes, outputs=[output], name=name
        )

    def _zero_point(self, scale: ir.Value) -> ir.Value:
        """As many zeros as there are scales, stored once."""
        assert scale.const_value is not None
        shape = tuple(scale.const_value.shape.numpy())
        if shape not in self._zeros:
            name = "_".join(("zero_point", *map(str, shape)))
            self._zeros[shape] = self._constant(name, np.zeros(shape, self._grid.dtype.numpy()))
        return self._zeros[shape]

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        tensor = ir.Tensor(array, name=self._names.unused(name))
        value = ir.Value(
            name=tensor.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value


def quantized_weight(
    weight: NDArray[np.float32], axis: int, grid: Grid = INT8
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Round a weight to the numbers of a grid, with one scale for each index of `axis`.

    A channel of zeros takes the smallest scale of the others. Scales below float16's smallest normal number, such as
    those of channels that a batch norm has switched off, are raised to it, though not above the layer's largest: so no
    channel is rounded more coarsely than the coarsest.

    Args:
        weight: not all zero.
        axis: of the output channels.
        grid: INT8 or FP8.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scales = np.abs(weight).max(axis=others) / np.float32(grid.largest)
    scales[scales == 0] = scales[scales > 0].min()
    scales = np.maximum(scales, min(np.float32(_SMALLEST_NORMAL_HALF), scales.max()))
    numbers = np.clip(weight / np.expand_dims(scales, others), -grid.largest, grid.largest)
    whole = np.rint(numbers) if grid is INT8 else numbers
    return whole.astype(grid.dtype.numpy()), scales


def _scale(bounds: tuple[float, float], grid: Grid) -> NDArray[np.float32] | None:
    """What the grid's 1 stands for in a range around zero, a scalar; None where the range is empty or only zero."""
    low, high = bounds
    if not low <= high:
        return None
    scale = np.asarray(max(abs(low), abs(high)) / grid.largest, np.float32)
    return scale if np.isfinite(scale) and scale >= np.finfo(np.float32).tiny else None
