"""Chooses the nodes that ONNX Runtime should compute in integers, by the table of operator speeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import networkx

from timmx_onnx.speed import operator_cost
from timmx_onnx.weights import constant, layers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx_ir as ir

    from timmx_onnx.weights import Layer

_SAME = frozenset("Identity Reshape Flatten Squeeze Unsqueeze".split())
"""Operators that cost nothing: they give a tensor another shape."""
_RANGES = frozenset(("Relu", "Clip"))
_KINDS = {
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish",
    "Relu": "relu",
    "Clip": "clip",
    "GlobalAveragePool": "global_average_pool",
    "ReduceMean": "global_average_pool",
    "MaxPool": "max_pool",
    "AveragePool": "average_pool",
    "Concat": "concat",
    "Transpose": "transpose",
}
_POOLS = frozenset("GlobalAveragePool ReduceMean MaxPool AveragePool".split())
_IMAGE_CHANNELS = 4
_FLOAT_RESULTS = frozenset(("MatMul", "Gemm"))
"""Operators whose integer kernels return floats."""


def integer_nodes(model: ir.Model, candidates: Collection[ir.Node]) -> frozenset[ir.Node]:
    """The nodes to compute in integers, so that the graph takes the least time by the table.

    A change between floats and integers costs time too, so neighbors are chosen together: the cheapest choice is a
    minimum cut of the graph, whose nodes are on the side of the integers or on that of the floats.

    Args:
        model: float32, with the shapes of all values.
        candidates: the layers that may compute in integers.
    """
    cut = _Cut(model.graph, candidates)
    _, (integers, _) = networkx.minimum_cut(cut.flow, _Cut.INTEGER, _Cut.FLOAT)
    return frozenset(node for node in model.graph if node in integers)


class _Cut:
    """The network whose minimum cut is the cheapest choice."""

    INTEGER, FLOAT = "integer", "float"

    def __init__(self, graph: ir.Graph, candidates: Collection[ir.Node]) -> None:
        self.flow = networkx.DiGraph()
        self.flow.add_nodes_from((self.INTEGER, self.FLOAT))
        self._layers: Mapping[ir.Node, Layer] = {layer.node: layer for layer in layers(graph)}
        allowed = set(candidates)
        for node in graph:
            times = None if node in self._layers and node not in allowed else self._times(node)
            if times is None:
                self._edge(node, self.FLOAT, math.inf)
            else:
                floats, integers = times
                self._edge(self.INTEGER, node, floats)
                self._edge(node, self.FLOAT, integers)
            for output in node.outputs:
                self._conversions(output, self.FLOAT if node.op_type in _FLOAT_RESULTS else node)
        for value in graph.inputs:
            self._conversions(value, self.FLOAT)

    def _edge(self, source: object, target: object, capacity: float) -> None:
        if math.isinf(capacity):
            self.flow.add_edge(source, target)  # without a capacity: unlimited
        else:
            self.flow.add_edge(source, target, capacity=round(capacity))  # in nanoseconds, for exact sums

    def _conversions(self, value: ir.Value, producer: object) -> None:
        """Add what it costs if a value and the nodes that use it are on different sides."""
        users: list[object] = [user for user, _ in value.uses()]
        if value.is_graph_output():
            users.append(self.FLOAT)
        for user in users:
            self._edge(user, ("quantized", value), math.inf)
            self._edge(("dequantized", value), user, math.inf)
        self._edge(("quantized", value), producer, _conversion("quantize", value))
        self._edge(producer, ("dequantized", value), _conversion("dequantize", value))

    def _fused(self, node: ir.Node) -> bool:
        """Whether a Relu or Clip is part of the layer before it, in either arithmetic."""
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        return source is not None and source.op_type == "Conv" and len(source.outputs[0].uses()) == 1

    def _times(self, node: ir.Node) -> tuple[float, float] | None:
        """The time of a node in floats and in integers, in nanoseconds; None for what is always float."""
        if node.domain != "":
            return None
        if node in self._layers:
            return _time(*_layer_kind(self._layers[node]))
        if node.op_type in _SAME:
            return 0.0, 0.0
        kind, measured = _KINDS.get(node.op_type, ""), node.outputs[0]
        if node.op_type in _RANGES:  # in integers, only the range of the value
            cost = None if self._fused(node) else operator_cost(kind)
            return cost.float32.nanoseconds(_size(measured)) if cost else 0.0, 0.0
        if node.op_type in ("Add", "Mul"):
            if not _sums_activations(node):
                return None
            shapes = {str(value.shape) for value in node.inputs if value is not None}
            kind = node.op_type.lower() + ("_channel" if len(shapes) > 1 else "")
        if node.op_type == "ReduceMean" and not is_global_average(node):
            return None
        if node.op_type in _POOLS and node.inputs[0] is not None:
            measured = node.inputs[0]
        return _time(kind, _size(measured))


def is_global_average(node: ir.Node) -> bool:
    """Whether a ReduceMean is a GlobalAveragePool: over both axes of a map, which are kept."""
    source = node.inputs[0]
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or source.shape is None or len(source.shape) != 4 or axes is None:
        return False
    return sorted(int(axis) % 4 for axis in axes) == [2, 3] and node.attributes.get_int("keepdims", 1) == 1


def _sums_activations(node: ir.Node) -> bool:
    return all(value is not None and constant(value) is None for value in node.inputs)


def _layer_kind(layer: Layer) -> tuple[str, float, float]:
    """The kind of a layer in the table, its multiply-adds, and the elements of its output."""
    node, weight = layer.node, layer.weight
    outputs = _size(node.outputs[0])
    if node.op_type in ("MatMul", "Gemm"):
        kind = "gemm_float_output" if node.op_type == "Gemm" else "matmul_float_output"
        return kind, outputs * weight.size / weight.shape[layer.axis], outputs
    units = float(outputs * weight[0].size)
    if node.op_type != "Conv" or weight.ndim != 4:
        return "", units, outputs
    groups = node.attributes.get_int("group", 1)
    rows, columns = weight.shape[2:]
    if groups > 1:
        return ("depthwise" if weight.shape[:2] == (groups, 1) else "grouped"), units, outputs
    if (rows, columns) == (1, 1):
        return ("conv1x1_vector" if outputs == weight.shape[0] else "conv1x1"), units, outputs
    if weight.shape[1] > _IMAGE_CHANNELS:
        return "conv", units, outputs
    strides = node.attributes.get_ints("strides", (1, 1))
    return ("patches" if tuple(strides) == (rows, columns) else "stem"), units, outputs


def _time(kind: str, units: float, outputs: float = 0.0) -> tuple[float, float] | None:
    cost = operator_cost(kind)
    if cost is None or cost.int8 is None:
        return None
    return cost.float32.nanoseconds(units, outputs), cost.int8.nanoseconds(units, outputs)


def _conversion(kind: str, value: ir.Value) -> float:
    """The time in nanoseconds to convert a value, and to change its layout: integer convolutions take channels last."""
    size = _size(value)
    layout = _time("transpose", size) if value.shape is not None and len(value.shape) == 4 else None
    converted = _time(kind, size)
    return (converted[1] if converted else 0.0) + (layout[1] if layout else 0.0)


def _size(value: ir.Value) -> float:
    """The number of elements for a batch of one."""
    if value.shape is None:
        return 0.0
    return float(math.prod(size if isinstance(size, int) else 1 for size in value.shape[1:]))
