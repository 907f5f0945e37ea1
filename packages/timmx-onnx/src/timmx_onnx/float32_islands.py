"""Chooses the nodes of a graph that compute in float32 when the rest computes in half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FLOAT32_OPS = frozenset(
    "BatchNormalization GroupNormalization InstanceNormalization LRN LayerNormalization LpNormalization "
    "MeanVarianceNormalization RMSNormalization "  # normalization
    "LogSoftmax Softmax ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare "  # long sums
    "Bernoulli EyeLike Multinomial RandomNormalLike RandomUniformLike".split()  # typed by an attribute
)
"""Operators that always compute in float32."""

_SUMS = frozenset("GlobalAveragePool ReduceL1 ReduceL2 ReduceMean ReduceSum ReduceSumSquare".split())
_ARITHMETIC = frozenset(
    "Abs Add Ceil Clip Cos Div Exp Floor Log Max Min Mul Neg Pow Reciprocal Round Sin Sqrt Sub".split()
)
LAYOUT_OPS = frozenset(
    "Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape Slice SpaceToDepth Split "
    "Squeeze Tile Transpose Unsqueeze".split()
)
"""Operators that move values."""


class Islands:
    """The nodes that compute in float32, and for the others the slots that may be half precision.

    Attributes:
        nodes: the float32 nodes, in the order of their discovery.
        out_of_range: the names of constants that half precision cannot represent; their users are among `nodes`.
    """

    def __init__(
        self,
        model: ir.Model,
        dtype: ir.DataType,
        convertible: set[ir.Value],
        holds: Callable[[ir.Value, bool], bool],
        keep: Callable[[ir.Node], bool],
    ) -> None:
        """Choose the nodes.

        Args:
            model: its main graph has no Constant nodes and calls no functions; nodes in topological order.
            dtype: the half-precision type.
            convertible: the float32 values of the main graph.
            holds: returns whether `dtype` represents a constant well; True as second argument means in every element.
            keep: returns whether a further node must stay in float32.
        """
        self.nodes: dict[ir.Node, None] = {}
        self.out_of_range: set[str] = set()
        self._type = f"tensor({dtype.name.lower()})"
        self._convertible = convertible
        self._opsets = model.opset_imports
        self._half_slots: dict[ir.Node, tuple[list[bool], list[bool]]] = {}
        nodes = [node for node in model.graph if self._floats((*node.inputs, *node.outputs))]
        for node in nodes:
            if keep(node) or not self._may_be_half(node):
                self.nodes[node] = None
        self._keep_constants_out_of_range(nodes, holds)
        self._keep_arithmetic_on_inputs(nodes, model.graph.inputs)
        self._keep_decomposed_norms(nodes)
        self._keep_layout_between_float32(nodes, set(model.graph.inputs), set(model.graph.outputs))

    def half_slots(self, node: ir.Node) -> tuple[list[bool], list[bool]]:
        """For each input and each output of a node, whether a float32 value there becomes half precision."""
        if node in self.nodes or node not in self._half_slots:
            return [False] * len(node.inputs), [False] * len(node.outputs)
        return self._half_slots[node]

    def _may_be_half(self, node: ir.Node) -> bool:
        """Whether some float32 value of a node may be half precision; records which in `_half_slots`."""
        if node.op_type in FLOAT32_OPS or next(subgraphs(node), None):
            return False
        # Without a float32 input an attribute sets the output type: Cast, ConstantOfShape, RandomNormal.
        if self._floats(node.outputs) and (node.op_type == "Cast" or not self._floats(node.inputs)):
            return False
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opsets.get(node.domain, 1), node.domain)
        except onnx.defs.SchemaError:
            return False
        allowed = {
            constraint.type_param_str
            for constraint in schema.type_constraints
            if self._type in constraint.allowed_type_strs
        }
        half_inputs, half_outputs = (
            [formal[min(index, len(formal) - 1)].type_str in allowed for index in range(len(actual))]
            for formal, actual in ((schema.inputs, node.inputs), (schema.outputs, node.outputs))
        )
        self._half_slots[node] = half_inputs, half_outputs
        slots = zip((*node.inputs, *node.outputs), half_inputs + half_outputs, strict=True)
        return any(half and value in self._convertible for value, half in slots)

    def _keep_constants_out_of_range(
        self, nodes: Iterable[ir.Node], holds: Callable[[ir.Value, bool], bool]
    ) -> None:
        float32_values: set[ir.Value] = set()
        for node in nodes:
            every_element = node.op_type in ("QuantizeLinear", "DequantizeLinear")
            for value, half in zip(node.inputs, self.half_slots(node)[0], strict=True):
                if value is None or not half or value not in self._convertible:
                    continue
                if value.is_initializer() and not holds(value, every_element):
                    self.out_of_range.add(str(value.name))
                elif value not in float32_values:
                    continue
                self.nodes[node] = None
                if node.op_type in LAYOUT_OPS:
                    float32_values.update(node.outputs)

    def _keep_arithmetic_on_inputs(self, nodes: Iterable[ir.Node], inputs: Iterable[ir.Value]) -> None:
        """`(x - mean) / std` before the first layer, counts computed from integers, tables from constants."""
        exact = set(inputs)
        for node in nodes:
            varying = self._varying(node)
            if not exact.issuperset(varying):
                continue
            if node.op_type in _ARITHMETIC or (node.op_type == "Cast" and not varying):
                exact.update(node.outputs)
                self.nodes[node] = None
            elif varying and node.op_type in LAYOUT_OPS:
                exact.update(node.outputs)

    def _keep_decomposed_norms(self, nodes: Iterable[ir.Node]) -> None:
        """Norms from centering and squares to the node that combines the statistic with the activations.

        A statistic is a sum or mean of squares or absolute values, and whatever depends only on statistics and
        constants: epsilon, root, reciprocal, a mean of norms (GRN).
        """
        statistics: set[ir.Value] = set()
        for node in nodes:
            only_statistics = statistics.issuperset(self._varying(node))
            if node.op_type in FLOAT32_OPS & _SUMS:
                statistics.update(node.outputs)
            elif node.op_type in _SUMS and (squares := _squares(node)):
                statistics.update(node.outputs)
                self.nodes |= dict.fromkeys((node, *squares))
            elif statistics.isdisjoint(node.inputs):
                continue
            elif only_statistics and node.op_type in _ARITHMETIC | LAYOUT_OPS | _SUMS:
                statistics.update(node.outputs)
                self.nodes[node] = None
            elif node.op_type in _ARITHMETIC:
                self.nodes[node] = None

    def _keep_layout_between_float32(
        self, nodes: list[ir.Node], inputs: set[ir.Value], outputs: set[ir.Value]
    ) -> None:
        """A reshape between two float32 nodes, or before a graph output, would cost two casts."""
        before_float32: set[ir.Node] = set()
        for node in reversed(nodes):
            floats = self._floats(node.outputs)
            users = {user for value in floats for user, _ in value.uses()}
            if node.op_type in LAYOUT_OPS and users <= before_float32 | self.nodes.keys():
                before_float32.update([node] if users or outputs.issuperset(floats) else [])
        for node in nodes:
            sources = self._varying(node)
            if node in before_float32 and all(
                value in inputs or value.producer() in self.nodes for value in sources
            ):
                self.nodes[node] = None

    def _floats(self, values: Iterable[ir.Value | None]) -> list[ir.Value]:
        return [value for value in values if value is not None and value in self._convertible]

    def _varying(self, node: ir.Node) -> list[ir.Value]:
        return [value for value in self._floats(node.inputs) if not value.is_initializer()]


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The subgraphs of an If, a Loop or a Scan."""
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type is ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _squares(total: ir.Node) -> list[ir.Node]:
    """The nodes that compute the squares (or absolute values) in a sum, and that center the values before."""
    node = _producer(total, 0)
    if node is None or not (
        node.op_type == "Abs"
        or (node.op_type == "Pow" and node.inputs[1] is not None and node.inputs[1].is_initializer())
        or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1])
    ):
        return []
    nodes = [node]
    center = _producer(node, 0)
    if center is not None and center.op_type == "Sub":
        nodes.append(center)
        mean = _producer(center, 1)
        if mean is not None and mean.op_type in _SUMS:
            nodes.append(mean)
    return nodes


def _producer(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    return None if value is None else value.producer()
