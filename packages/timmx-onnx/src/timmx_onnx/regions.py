"""Chooses the nodes that ONNX Runtime should compute in integers, by a table of operator times."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import networkx

from timmx_onnx.weights import constant, layers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import onnx_ir as ir

    from timmx_onnx.speed import SpeedTable
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
_CHANNELS_AT_ONCE = 16
"""Integer depthwise convolutions of other numbers of channels compute the last ones one by one."""
_FLOAT_RESULTS = frozenset(("MatMul", "Gemm"))
"""Operators whose integer kernels return floats."""


def integer_nodes(model: ir.Model, candidates: Collection[ir.Node], speeds: SpeedTable) -> frozenset[ir.Node]:
    """The nodes to compute in integers, so that the graph takes the least time by the table.

    A change between floats and integers costs time too, so neighbors are chosen together: the cheapest choice is a
    minimum cut of the graph, whose nodes are on the side of the integers or on that of the floats.

    Args:
        model: float32, with the shapes of all values.
        candidates: the layers that may compute in integers.
        speeds: the times of operators.
    """
    cut = _Cut(model.graph, candidates, speeds)
    _, (integers, _) = networkx.minimum_cut(cut.flow, _Cut.INTEGER, _Cut.FLOAT)
    return frozenset(node for node in model.graph if node in integers)


class _Cut:
    """The network whose minimum cut is the cheapest choice."""

    INTEGER, FLOAT = "integer", "float"

    def __init__(self, graph: ir.Graph, candidates: Collection[ir.Node], speeds: SpeedTable) -> None:
        self._costs = speeds.costs
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
                self._layout(node, integers)
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
        self._edge(("quantized", value), producer, self._conversion("quantize", value))
        self._edge(producer, ("dequantized", value), self._conversion("dequantize", value))

    def _layout(self, node: ir.Node, integers: float) -> None:
        """Add what an operator with one value per channel costs more if its map comes from a float operator.

        Such a map has its channels first, and integer kernels then take its channels one by one.
        """
        kind = (
            "global_average_pool" if is_global_average(node) else "mul_channel" if _of_channels(node) else ""
        )
        source = max((value for value in node.inputs if value is not None), key=_size, default=None)
        producer = source.producer() if source is not None else None
        times = self._time(f"{kind}_alone", _size(source), _channels(source)) if kind and source else None
        if producer is not None and times is not None and times[1] > integers:
            self._edge(node, producer, times[1] - integers)

    def _fused(self, node: ir.Node) -> bool:
        """Whether a Relu or Clip is part of the layer before it, in either arithmetic."""
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        return source is not None and source.op_type == "Conv" and len(source.outputs[0].uses()) == 1

    def _times(self, node: ir.Node) -> tuple[float, float] | None:
        """The time of a node in floats and in integers, in nanoseconds; None for what is always float."""
        if node.domain != "":
            return None
        if node in self._layers:
            return self._time(*_layer_kind(self._layers[node]))
        if node.op_type in _SAME:
            return 0.0, 0.0
        kind, measured = _KINDS.get(node.op_type, ""), node.outputs[0]
        if node.op_type in _RANGES:  # in integers, only the range of the value
            cost = None if self._fused(node) else self._costs.get(kind)
            return cost.float32.nanoseconds(_size(measured)) if cost else 0.0, 0.0
        if node.op_type in ("Add", "Mul"):
            if not _sums_activations(node):
                return None
            kind = "mul_channel" if _of_channels(node) else node.op_type.lower()
        if node.op_type == "ReduceMean" and not is_global_average(node):
            return None
        if node.op_type in _POOLS and node.inputs[0] is not None:
            measured = node.inputs[0]
        times = self._time(kind, _size(measured), _channels(measured))
        if times is not None and (silu := _silu(node)) is not None:
            # ONNX Runtime computes both operators of a SiLU as one in float.
            whole = self._time("silu", _size(measured)) if silu is node else (0.0, 0.0)
            return None if whole is None else (whole[0], times[1])
        return times

    def _time(self, kind: str, units: float, parts: float = 0.0) -> tuple[float, float] | None:
        cost = self._costs.get(kind)
        if cost is None or cost.int8 is None:
            return None
        return cost.float32.nanoseconds(units, parts), cost.int8.nanoseconds(units, parts)

    def _conversion(self, kind: str, value: ir.Value) -> float:
        """The time in nanoseconds to convert a value."""
        maps = value.shape is not None and len(value.shape) == 4
        times = self._time("boundary" if maps else kind, _size(value))
        if times is None:
            return 0.0
        return times[1] / 2 if maps else times[1]


def is_global_average(node: ir.Node) -> bool:
    """Whether a node is a GlobalAveragePool, or a ReduceMean over both axes of a map, which are kept."""
    if node.op_type != "ReduceMean":
        return node.op_type == "GlobalAveragePool"
    source = node.inputs[0]
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if source is None or source.shape is None or len(source.shape) != 4 or axes is None:
        return False
    return sorted(int(axis) % 4 for axis in axes) == [2, 3] and node.attributes.get_int("keepdims", 1) == 1


def _of_channels(node: ir.Node) -> bool:
    """Whether a node is the product of a map with one value per channel."""
    return node.op_type == "Mul" and len({str(value.shape) for value in node.inputs if value is not None}) > 1


def _silu(node: ir.Node) -> ir.Node | None:
    """The sigmoid of x * sigmoid(x), if the node is one of the two operators; else None."""
    for sigmoid in (node, *(value.producer() for value in node.inputs if value is not None)):
        if sigmoid is None or sigmoid.op_type != "Sigmoid" or len(uses := sigmoid.outputs[0].uses()) != 1:
            continue
        product = next(iter(uses))[0]
        if product.op_type == "Mul" and node in (sigmoid, product) and sigmoid.inputs[0] in product.inputs:
            return sigmoid
    return None


def _channels(value: ir.Value) -> float:
    """The number of channels of a map; 0 for other values."""
    if value.shape is None or len(value.shape) != 4 or not isinstance(value.shape[1], int):
        return 0.0
    return float(value.shape[1])


def _sums_activations(node: ir.Node) -> bool:
    return all(value is not None and constant(value) is None for value in node.inputs)


def _layer_kind(layer: Layer) -> tuple[str, float, float]:
    """The kind of a layer in the table, its multiply-adds, and its parts: output elements, or pixels if depthwise."""
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
        if weight.shape[:2] != (groups, 1):
            return "grouped", units, outputs
        return "depthwise_partial" if groups % _CHANNELS_AT_ONCE else "depthwise", units, outputs / groups
    if (rows, columns) == (1, 1):
        return ("conv1x1_vector" if outputs == weight.shape[0] else "conv1x1"), units, outputs
    if weight.shape[1] > _IMAGE_CHANNELS:
        return "conv", units, outputs
    strides = node.attributes.get_ints("strides", (1, 1))
    return ("patches" if tuple(strides) == (rows, columns) else "stem"), units, outputs


def _size(value: ir.Value) -> float:
    """The number of elements; for a batch of one, if the batch size is not fixed."""
    if value.shape is None:
        return 0.0
    return float(math.prod(size if isinstance(size, int) else 1 for size in value.shape))
