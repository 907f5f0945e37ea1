"""Quantizes a graph to int8 or float8 for TensorRT, with explicit Q/DQ pairs.

It quantizes what `targets` chooses: layers with all their inputs, and the shortcuts of convolutional networks. With
its default settings ONNX Runtime's quantizer writes graphs that TensorRT rejects or misreads, and omits shortcuts that
end in a convolution; NVIDIA's ModelOpt 0.47 pins onnx versions and requires cupy (November 2026).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from timmx.plugin import ConfigurationError, WeightKey
from timmx_onnx import Names, add_constant, scaled_weight

from timmx_tensorrt.targets import INT8, last_conv, targets

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray
    from timmx_onnx import Layer

    from timmx_tensorrt.targets import Grid

_MIN_OPSET = 19
"""The first opset whose Q/DQ nodes take float16 scales."""


@dataclass(frozen=True)
class QuantizationReport:
    """The result of `insert`.

    Attributes:
        quantized_nodes: the number of nodes that compute in 8 bits, by operator.
        float_reasons: the number of convolutions and matrix products that stay float, by reason.
        activations: the number of values with a Q/DQ pair, including shortcuts.
        residual_adds: the number of sums whose shortcut is quantized.
    """

    quantized_nodes: Mapping[str, int]
    float_reasons: Mapping[str, int]
    activations: int
    residual_adds: int


def insert(
    model: ir.Model,
    ranges: Mapping[str, tuple[float, float]],
    grid: Grid = INT8,
    kept: Collection[WeightKey] = (),
) -> QuantizationReport:
    """Quantize the targets of a graph, in place, before its floats are lowered to half precision.

    A value gets one QuantizeLinear and DequantizeLinear, however many targets use it: symmetric, one scale. Weights
    become 8-bit constants with a DequantizeLinear and one scale per channel. Biases stay float. Values outside a range
    saturate: float8 too has no infinity.

    Args:
        model: a float32 graph of opset 19 or later, of any batch size.
        ranges: the smallest and largest number of each of `observed_values`. Layers of a value without a range, or
            with only zeros, stay float.
        grid: INT8 or FP8; the ranges were observed for it.
        kept: the weights of layers that stay float for their accuracy.

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
    selection = targets(model, grid)
    writer = _Writer(model.graph, ranges, grid)
    quantized: Counter[str] = Counter()
    float_reasons = Counter(selection.float_reasons.values())
    quantized_layers = set()
    for layer in selection.layers:
        if not layer.weight.any():
            float_reasons["weights are all zero"] += 1
        elif kept and WeightKey.of(layer.weight) in kept:
            float_reasons["accuracy"] += 1
        elif not writer.quantize_input(layer.node, 0):
            float_reasons["no observed range"] += 1
        else:
            writer.quantize_weight(layer)
            quantized[layer.node.op_type] += 1
            quantized_layers.add(layer.node)
    residual_adds = sum(
        last_conv(shortcut.add.inputs[1 - shortcut.index]) in quantized_layers
        and writer.quantize_input(shortcut.add, shortcut.index)
        for shortcut in selection.shortcuts
    )
    common.RemoveUnusedNodesPass()(model)
    common.TopologicalSortPass()(model)
    return QuantizationReport(
        dict(sorted(quantized.items())), dict(sorted(float_reasons.items())), writer.pairs, residual_adds
    )


class _Writer:
    """Inserts Q/DQ nodes into a graph, one pair per value and one dequantization per weight."""

    def __init__(self, graph: ir.Graph, ranges: Mapping[str, tuple[float, float]], grid: Grid) -> None:
        self._graph = graph
        self._ranges = ranges
        self._grid = grid
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int], ir.Value] = {}
        self._zeros: dict[tuple[int, ...], ir.Value] = {}
        self._names = Names.of(graph)

    @property
    def pairs(self) -> int:
        """The number of quantized values, without weights."""
        return len(self._activations)

    def quantize_input(self, node: ir.Node, index: int) -> bool:
        """Route an input through its Q/DQ pair; False if the value's range gives no scale."""
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
        """Replace a layer's weight by an 8-bit constant with one scale per channel."""
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
        """One half of a pair, with a zero point: without one TensorRT assumes int8, and ONNX uint8."""
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
        """One zero per scale, stored once for each shape."""
        assert scale.const_value is not None
        shape = tuple(scale.const_value.shape.numpy())
        if shape not in self._zeros:
            name = "_".join(("zero_point", *map(str, shape)))
            self._zeros[shape] = self._constant(name, np.zeros(shape, self._grid.dtype.numpy()))
        return self._zeros[shape]

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        return add_constant(self._graph, self._names.unused(name), array)


def quantized_weight(
    weight: NDArray[np.float32], axis: int, grid: Grid = INT8
) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """The numbers of a grid that stand for a weight, and their scales; see `timmx_onnx.scaled_weight`."""
    numbers, scales = scaled_weight(weight, axis, grid.largest)
    return (np.rint(numbers) if grid is INT8 else numbers).astype(grid.dtype.numpy()), scales


def _scale(bounds: tuple[float, float], grid: Grid) -> NDArray[np.float32] | None:
    """The scale for a symmetric range, a scalar; None if the range is empty or only zero."""
    low, high = bounds
    if not low <= high:
        return None
    scale = np.asarray(max(abs(low), abs(high)) / grid.largest, np.float32)
    return scale if np.isfinite(scale) and scale >= np.finfo(np.float32).tiny else None
