"""Emulates a typed graph with half and float8 values in float32, to verify it on a CPU.

ONNX Runtime's CPU kernels do not show the rounding of a half-precision graph: float16 nodes compute in float32, their
results often stay float32, and bfloat16 has no kernels. ONNX's reference evaluator shows it, but takes seconds per
image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from timmx.plugin import UnsupportedError
from timmx_onnx import Names, add_constant, subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterator

HALF_TYPES = frozenset((ir.DataType.FLOAT16, ir.DataType.BFLOAT16))

_FLOAT32, _FLOAT8 = ir.DataType.FLOAT, ir.DataType.FLOAT8E4M3FN

_TYPE_ATTRIBUTES = frozenset("dtype output_dtype precision softmax_precision stash_type to".split())
"""Attributes that name an element type: of an output, or of the arithmetic in the node."""

_EXACT = frozenset(
    "Abs Ceil Clip Compress Concat ConstantOfShape DepthToSpace Expand EyeLike Flatten Floor Gather GatherElements "
    "GatherND GlobalMaxPool Identity Max MaxPool Min Neg OneHot Pad ReduceMax ReduceMin Relu Reshape "
    "ReverseSequence Round Sign Slice SpaceToDepth Split Squeeze Tile TopK Transpose Trilu Unsqueeze Where".split()
)
"""Operators whose results are values of their inputs, or neighboring integers: no rounding is needed."""

_REFUSED = frozenset(
    "BitCast ConcatFromSequence Optional OptionalGetElement OptionalHasElement SequenceAt SequenceConstruct "
    "SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap SplitToSequence".split()
)
"""Operators on bits, or on containers other than tensors. A list, since onnx-ir 1.1 infers tensors for sequences."""


def emulate_rounding(model: ir.Model) -> ir.Model:
    """A float32 graph with the values of a typed one: everything that was FLOAT16 or BFLOAT16 is rounded to it.

    Every node computes in float32; a Cast to the half type and one back follow every output that was half. So
    overflow becomes inf, small values underflow, and bfloat16 runs. Weights are converted to float32 without loss. A
    Cast in the graph becomes the rounding, or Identity if it only widened. QuantizeLinear divides by its half scale,
    and DequantizeLinear multiplies by it, in float32; the latter's result is rounded. Those of FLOAT8E4M3FN become this
    arithmetic and a Cast to or from float8, since ONNX Runtime 1.32 removes a Relu before a float8 QuantizeLinear, as
    if float8 had no negative numbers.

    This models TensorRT on a GPU: products and sums accumulate in float32, tensors are stored in half. It is not
    bit-exact. The order of a sum differs between kernels; kernels that TensorRT fuses keep intermediate values in
    float32, where this rounds (and may overflow); Attention is one node here, with float32 inside; and ONNX divides
    half values by half scales in half, unless `precision` says otherwise.

    Args:
        model: of any size; not changed. Its weights are shared, and half weights are converted one by one while the new
            model is saved.

    Returns:
        A model with the same names, with float32 inputs and outputs where they were half: the inputs are rounded
        first, the outputs contain rounded values. A value before its rounding has the suffix `_unrounded`.

    Raises:
        UnsupportedError: half values in a sequence or optional, or used as bits; a value whose type is unknown.
    """
    copy = model.clone()
    common.InlinePass()(copy)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
    common.OutputFixPass()(copy)
    if any(value.type is None for graph in _graphs(copy.graph) for value in _values(graph)):
        common.ShapeInferencePass()(copy)
    _Rounding(copy.graph).apply()
    if takes_float8(copy):
        _decompose_float8(copy)
    return copy


def half_types(model: ir.Model) -> frozenset[ir.DataType]:
    """The half types in a model: FLOAT16, BFLOAT16, both or none. Needs no inferred types."""
    graphs = [*_graphs(model.graph)]
    for function in model.functions.values():
        graphs += _graphs(function.graph)
    kinds: set[ir.DataType | None] = set()
    for graph in graphs:
        kinds.update(value.dtype for value in _values(graph))
        for node in graph:
            kinds.update(_attribute_types(node))
    return frozenset(kind for kind in kinds if kind in HALF_TYPES)


def takes_float8(model: ir.Model) -> bool:
    """Whether a node of the graph quantizes to FLOAT8E4M3FN, or dequantizes it."""
    return any(_of_float8(node) for graph in _graphs(model.graph) for node in graph)


class _Rounding:
    """Rewrites one model in place."""

    def __init__(self, graph: ir.Graph) -> None:
        self._main = graph
        graphs = [*_graphs(graph)]
        self._names = Names(value.name for inner in graphs for value in _values(inner))
        self._halves = {
            value: kind for inner in graphs for value in _values(inner) if (kind := _half_type(value))
        }

    def apply(self) -> None:
        for graph in _graphs(self._main):
            nodes = tuple(graph)
            for value in graph.initializers.values():
                self._widen_weights(value)
            for value in graph.inputs:
                if value in self._halves:
                    value.type = ir.TensorType(_FLOAT32)
                    if graph is self._main:
                        self._round(value, graph, None)
            for node in nodes:
                self._rewrite(node, graph)

    def _widen_weights(self, value: ir.Value) -> None:
        if value in self._halves and value.const_value is not None:
            value.const_value = _widen_lazily(value.const_value)
            value.type = ir.TensorType(_FLOAT32)

    def _rewrite(self, node: ir.Node, graph: ir.Graph) -> None:
        halves = [value for value in node.outputs if value in self._halves]
        standard = node.domain in ("", "ai.onnx")
        if not halves and self._halves.keys().isdisjoint(node.inputs):
            return
        if standard and node.op_type in _REFUSED:
            raise UnsupportedError(
                f"node {node.name!r} ({node.op_type}) uses the bits of half-precision values, or a sequence or "
                "optional of them, and only tensors can be rounded"
            )
        if standard and node.op_type == "CastLike" and node.outputs[0].dtype is not None:
            node.op_type = "Cast"
            node.resize_inputs(1)
            node.attributes["to"] = ir.AttrInt64("to", node.outputs[0].dtype)
        if standard and node.op_type == "Cast":
            if halves:
                self._round_cast(node, graph)
            elif node.outputs[0].dtype is _FLOAT32 and node.inputs[0] in self._halves:
                node.op_type = "Identity"
                node.attributes.clear()
            return
        for attribute in tuple(node.attributes.values()):
            if attribute.name in _TYPE_ATTRIBUTES and attribute.value in HALF_TYPES:
                node.attributes[attribute.name] = ir.AttrInt64(attribute.name, _FLOAT32)
            elif attribute.type is ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALF_TYPES:
                node.attributes[attribute.name] = ir.AttrTensor(
                    attribute.name, _widen_lazily(attribute.as_tensor())
                )
        exact = bool(next(subgraphs(node), None)) or (standard and _is_exact(node))
        for value in halves:
            value.type = ir.TensorType(_FLOAT32)
            if not exact:
                self._round(value, graph, node)

    def _round(self, value: ir.Value, graph: ir.Graph, producer: ir.Node | None) -> None:
        """Replace a value by its rounded copy for all users; the copy takes its name unless the value is an input."""
        half = ir.Value(
            name=self._names.unused(f"{value.name}_half"),
            type=ir.TensorType(self._halves[value]),
            shape=value.shape,
        )
        down = ir.Node("", "Cast", [value], [ir.AttrInt64("to", self._halves[value])], outputs=[half])
        up = self._widening(value, half, graph)
        for cast in (down, up):
            cast.name = self._names.unused(f"round_{value.name}")
        if producer is None:
            up.outputs[0].name = self._names.unused(f"{value.name}_rounded")
            first = next(iter(graph), None)
            if first is None:
                graph.extend((down, up))
            else:
                graph.insert_before(first, (down, up))
        else:
            value.name, up.outputs[0].name = self._names.unused(f"{value.name}_unrounded"), value.name
            graph.insert_after(producer, (down, up))

    def _round_cast(self, cast: ir.Node, graph: ir.Graph) -> None:
        """Use a Cast to half as the first step of the rounding."""
        (value,) = cast.outputs
        up = self._widening(value, value, graph)
        up.name = self._names.unused(f"round_{value.name}")
        value.name, up.outputs[0].name = self._names.unused(f"{value.name}_half"), value.name
        graph.insert_after(cast, up)

    def _widening(self, value: ir.Value, half: ir.Value, graph: ir.Graph) -> ir.Node:
        """A Cast of `half` to float32, whose output replaces all uses of `value`."""
        users = tuple(value.uses())
        output_indices = [index for index, out in enumerate(graph.outputs) if out is value]
        wide = ir.Value(type=ir.TensorType(_FLOAT32), shape=value.shape)
        node = ir.Node("", "Cast", [half], [ir.AttrInt64("to", _FLOAT32)], outputs=[wide])
        for user, index in users:
            if user is not half.producer():
                user.replace_input_with(index, wide)
        for index in output_indices:
            graph.outputs[index] = wide
        return node


def _of_float8(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return False
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    return zero_point is not None and zero_point.dtype is _FLOAT8


def _decompose_float8(model: ir.Model) -> None:
    """Replace QuantizeLinear by Div and Cast, and DequantizeLinear by Cast and Mul, with the same bits."""
    for graph in _graphs(model.graph):
        for node in filter(_of_float8, tuple(graph)):
            value = node.inputs[0]
            assert value is not None
            scale = _scale_of_float8(node, graph)
            between = ir.Value(
                name=f"{node.outputs[0].name}_unscaled", type=ir.TensorType(_FLOAT32), shape=value.shape
            )
            if node.op_type == "QuantizeLinear":
                saturate = node.attributes.get_int("saturate", 1)
                inner = ir.Node("", "Div", [value, scale], outputs=[between])
                outer = ir.Node(
                    "",
                    "Cast",
                    [between],
                    [ir.AttrInt64("to", _FLOAT8), ir.AttrInt64("saturate", saturate)],
                    num_outputs=1,
                )
            else:
                inner = ir.Node("", "Cast", [value], [ir.AttrInt64("to", _FLOAT32)], outputs=[between])
                outer = ir.Node("", "Mul", [between, scale], num_outputs=1)
            inner.name, outer.name = between.name, node.name
            ir.convenience.replace_nodes_and_values(
                graph, node, [node], [inner, outer], node.outputs, outer.outputs
            )
    common.RemoveUnusedNodesPass()(model)


def _scale_of_float8(node: ir.Node, graph: ir.Graph) -> ir.Value:
    """The scale of a Q or DQ node, in a shape that broadcasts along its axis."""
    value, scale, zero_point = node.inputs[:3]
    assert value is not None
    assert scale is not None
    tensors = [None if one is None else ir.convenience.get_const_tensor(one) for one in (scale, zero_point)]
    arrays = [one.numpy() for one in tensors if one is not None]
    if len(arrays) < 2 or arrays[0].ndim > 1 or value.shape is None or arrays[1].astype(np.float32).any():
        raise UnsupportedError(
            f"node {node.name!r} ({node.op_type}) rounds to float8 without a constant scale, one for all values or "
            "one per channel, or with a zero point other than 0, which is not supported"
        )
    if arrays[0].size == 1:
        return scale
    shape = [1] * len(value.shape)
    shape[node.attributes.get_int("axis", 1)] = arrays[0].size
    return add_constant(graph, f"{node.outputs[0].name}_scale_by_channel", arrays[0].reshape(shape))


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and all its subgraphs, recursively."""
    yield graph
    for node in graph:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from (value for value in node.outputs if value.name)


def _half_type(value: ir.Value) -> ir.DataType | None:
    """FLOAT16, BFLOAT16, or None for a value of another type."""
    if value.type is None:
        node = value.producer()
        where = f"node {node.name!r} ({node.op_type})" if node is not None else "the graph"
        raise UnsupportedError(
            f"the type of {value.name!r} of {where} is unknown", hint="check the graph with onnx.checker"
        )
    return value.dtype if value.dtype in HALF_TYPES else None


def _attribute_types(node: ir.Node) -> Iterator[ir.DataType]:
    for attribute in node.attributes.values():
        if attribute.name in _TYPE_ATTRIBUTES and attribute.type is ir.AttributeType.INT:
            yield ir.DataType(attribute.as_int())
        elif attribute.type is ir.AttributeType.TENSOR:
            yield attribute.as_tensor().dtype


def _is_exact(node: ir.Node) -> bool:
    """Whether results need no rounding. Old Clip and Pad have float32 constants as attributes, which may need it."""
    return node.op_type in _EXACT and not any(
        attribute.type is ir.AttributeType.FLOAT for attribute in node.attributes.values()
    )


def _widen_lazily(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    def widen() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    assert isinstance(tensor.shape, ir.Shape)
    return ir.LazyTensor(widen, _FLOAT32, tensor.shape, name=tensor.name)
