"""The constant weights of convolutions and matrix products, and their storage in 8 bits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from timmx_onnx.names import Names, add_constant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

WEIGHTED = frozenset("Conv ConvTranspose Gemm MatMul".split())
"""Operators whose second input can be a weight."""

_FOLDED = frozenset(("Identity", "Reshape", "Transpose"))
_LARGEST = 127
_FEWEST = 1024
"""The smallest number of weights that is worth a scale for each channel."""
_SMALLEST_NORMAL_HALF = 2.0**-14


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Attributes:
        node: its first input is the activation, its second the weight.
        weight: float32, after transposes and reshapes of the constant.
        axis: the weight's axis of the output channels.
    """

    node: ir.Node
    weight: NDArray[np.float32]
    axis: int


def layers(graph: ir.Graph) -> Iterator[Layer]:
    """The nodes of a graph with a constant float32 weight, in their order."""
    for node in graph:
        if node.domain == "" and node.op_type in WEIGHTED and len(node.inputs) > 1:
            weight = constant(node.inputs[1])
            if weight is not None and weight.dtype == np.float32 and weight.ndim > 1:
                yield Layer(node, weight, _output_axis(node, weight))


def infer_shapes(model: ir.Model) -> None:
    """Inline the functions of a graph, and infer the shapes of its values where they are missing, in place."""
    common.InlinePass()(model)
    if any(value.shape is None for node in model.graph for value in node.outputs):
        common.ShapeInferencePass()(model)


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """A constant, also through transposes and reshapes; None for anything else."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None:
        return tensor.numpy()
    node = value.producer()
    source = constant(node.inputs[0]) if node is not None and node.op_type in _FOLDED else None
    if node is None or source is None:
        return None
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", tuple(reversed(range(source.ndim))))
        return source.transpose(order)
    if node.op_type == "Reshape":
        shape = constant(node.inputs[1])
        return None if shape is None or 0 in shape else source.reshape(shape.tolist())
    return source


def _output_axis(node: ir.Node, weight: NDArray[np.float32]) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else weight.ndim - 1


def scaled_weight(
    weight: NDArray[np.float32], axis: int, largest: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Divide a weight by one scale for each index of `axis`, so that its largest magnitude becomes `largest`.

    A channel of zeros takes the smallest scale of the others. Scales below float16's smallest normal number, such as
    those of channels that a batch norm has switched off, are raised to it, but not above the layer's largest scale: so
    no channel is rounded more coarsely than the coarsest.

    Args:
        weight: not all zero.
        axis: the axis of the output channels.
        largest: of the numbers to which it is rounded afterwards.

    Returns:
        The divided weight, not rounded yet, and the scales.
    """
    others = tuple(index for index in range(weight.ndim) if index != axis)
    scales = np.abs(weight).max(axis=others) / np.float32(largest)
    scales[scales == 0] = scales[scales > 0].min()
    scales = np.maximum(scales, min(np.float32(_SMALLEST_NORMAL_HALF), scales.max()))
    return np.clip(weight / np.expand_dims(scales, others), -largest, largest), scales


def storable(graph: ir.Graph) -> list[Layer]:
    """The layers that `store_weights` stores: not those that are small or have only zeros."""
    return [layer for layer in layers(graph) if layer.weight.size >= _FEWEST and layer.weight.any()]


def store_weights(model: ir.Model, keeps: Callable[[ir.Node], bool] = lambda node: False) -> Counter[str]:
    """Store the weights of convolutions and matrix products as int8, with one scale for each output channel, in place.

    A Cast and a product in front of the layer make floats of them again; arithmetic stays in float32. ONNX Runtime
    computes these two once, when it loads the file, but a DequantizeLinear in each run (1.32): with that
    mobilenetv3_small_050 takes 2.7 times as long.

    Args:
        model: float32.
        keeps: returns whether a layer keeps its float weights.

    Returns:
        The number of layers by operator.
    """
    graph = model.graph
    names = Names.of(graph)
    stored: Counter[str] = Counter()
    floats: dict[tuple[ir.Value, int], ir.Value] = {}
    for layer in storable(graph):
        if keeps(layer.node):
            continue
        source = layer.node.inputs[1]
        assert source is not None
        key = source, layer.axis
        if key not in floats:
            scaled, scales = scaled_weight(layer.weight, layer.axis, _LARGEST)
            sides = [-1 if axis == layer.axis else 1 for axis in range(layer.weight.ndim)]
            integers = add_constant(
                graph, names.unused(f"{source.name}_int8"), np.rint(scaled).astype(np.int8)
            )
            scale = add_constant(graph, names.unused(f"{source.name}_scale"), scales.reshape(sides))
            cast, product = (
                ir.Value(
                    name=names.unused(f"{source.name}_{kind}"),
                    type=ir.TensorType(ir.DataType.FLOAT),
                    shape=ir.Shape(layer.weight.shape),
                )
                for kind in ("unscaled", "float")
            )
            to = [ir.AttrInt64("to", ir.DataType.FLOAT.value)]
            nodes = (
                ir.Node("", "Cast", [integers], to, outputs=[cast], name=str(cast.name)),
                ir.Node("", "Mul", [cast, scale], outputs=[product], name=str(product.name)),
            )
            graph.insert_before(graph[0], nodes)
            floats[key] = product
        layer.node.replace_input_with(1, floats[key])
        stored[layer.node.op_type] += 1
    common.RemoveUnusedNodesPass()(model)
    return stored
