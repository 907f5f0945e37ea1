"""Converts a float32 ONNX graph to half precision, strongly typed, and keeps float32 where half loses accuracy.

No library does this as needed (November 2026). onnxruntime 1.32 (`transformers.float16`) and onnxconverter-common
clamp weights without a warning, lack bfloat16, recognize norms only by operator name, round constants that float32
nodes share with others, and leave the graph unsorted. NVIDIA's AutoCast requires cupy, polygraphy and pinned onnx
versions. onnx-ir 1.1 has no such pass.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from timmx.plugin import ConfigurationError, UnsupportedError

from timmx_onnx.float32_islands import FLOAT32_OPS, LAYOUT_OPS, Islands, subgraphs
from timmx_onnx.names import Names
from timmx_onnx.runner import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

_FLOAT32 = ir.DataType.FLOAT

_ANY_TYPE = frozenset(("Cast", "Shape", "Size"))
"""Operators that accept any input type and whose results do not depend on it."""

_MAX_ROUNDING = 0.05
"""The largest rounding error relative to a constant's norm. Typical are 0.0002 for float16 and 0.002 for bfloat16;
more means overflow, or numbers of 3e-7 and less, which float16 rounds to zero or nearly so."""

_MAX_ACTIVATION = 2.0**14
"""A quarter of float16's largest number, which leaves a margin for other inputs than the ones tried."""

_MAX_SCALE_ROUNDING = 0.01
"""The largest relative rounding error of a single quantization scale."""


@dataclass(frozen=True)
class PrecisionReport:
    """The result of `lower_precision`.

    Attributes:
        half_nodes: the number of nodes that compute in half precision.
        float32_nodes: the number of nodes that compute in float32, by operator.
        casts: the number of Cast nodes that were added.
        out_of_range: constants that half precision cannot represent (overflow, underflow); they and the nodes that
            use them stay float32.
    """

    half_nodes: int
    float32_nodes: Mapping[str, int]
    casts: int
    out_of_range: tuple[str, ...]


def lower_precision(
    model: ir.Model, dtype: ir.DataType, keep_float32: Callable[[ir.Node], bool] = lambda node: False
) -> PrecisionReport:
    """Convert a float32 graph to half precision, in place; its inputs and outputs keep their names and types.

    The following stay in float32: normalization, fused or decomposed; softmax; arithmetic on the input before the
    first layer (`--normalize`), on integers and on constants; nodes with a constant that half precision cannot
    represent; If, Loop and Scan with their subgraphs; operators of other domains; slots for which an operator's schema
    requires float32. Attention computes its softmax in float32. Model-local functions are inlined.

    Args:
        model: of any size. Values that are not float32 do not change. QuantizeLinear and DequantizeLinear stay, and
            their scales become half precision with the rest.
        dtype: FLOAT16 or BFLOAT16.
        keep_float32: returns whether a further node must stay float32, such as one whose activations overflow.

    Raises:
        ConfigurationError: bfloat16 below opset 22, where Conv does not take it.
        UnsupportedError: the type of a value in the graph cannot be inferred.
    """
    if dtype not in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        raise ValueError(f"dtype is FLOAT16 or BFLOAT16, not {dtype.name}")
    opset = model.opset_imports.get("", 0)
    if dtype is ir.DataType.BFLOAT16 and opset < 22:
        raise ConfigurationError(
            f"bfloat16 convolutions need opset 22 or later, and this graph has opset {opset}",
            hint="use --opset 22",
        )
    _simplify(model)
    graph = model.graph
    convertible = {value for value in _values(graph) if value.type == ir.TensorType(_FLOAT32)}
    copies = _Copies(graph, dtype)
    islands = Islands(model, dtype, convertible, copies.holds, keep_float32)
    float32_nodes, half_nodes = Counter(node.op_type for node in islands.nodes), 0
    for node in tuple(graph):
        half_inputs, half_outputs = islands.half_slots(node)
        for user, index, value in (*_uses(node), *_captured(node)):
            if value in convertible and user.op_type not in _ANY_TYPE:
                input_type = dtype if user is node and half_inputs[index] else _FLOAT32
                user.replace_input_with(index, copies.get(value, input_type, node))
        halves = [value for value, half in zip(node.outputs, half_outputs, strict=True) if half]
        for value in convertible.intersection(halves):
            value.type = ir.TensorType(dtype)
        if node not in islands.nodes:
            half_nodes += not convertible.isdisjoint(halves)
            if node.op_type == "Attention":
                node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", _FLOAT32)
    for index, value in enumerate(graph.outputs):
        if value in convertible and value.dtype == dtype:
            graph.outputs[index] = copies.take_name(value)
    copies.replace_initializers()
    common.RemoveUnusedNodesPass()(model)
    return PrecisionReport(
        half_nodes, dict(sorted(float32_nodes.items())), copies.casts, tuple(sorted(islands.out_of_range))
    )


def overflowing(model: ir.Model, feeds: Mapping[str, NDArray[np.float32]]) -> Callable[[ir.Node], bool]:
    """Find the nodes whose values may overflow float16, for `keep_float32`, by running the float32 graph.

    ONNX Runtime on a CPU computes float16 graphs in float32, so it does not show an overflow that occurs on a GPU, in a
    browser or in TensorRT: the linear attention of efficientvit_b0 reaches 1.7e8 on random weights.

    Args:
        model: a float32 graph; simplified in place, as `lower_precision` does first.
        feeds: realistic inputs; a few images are enough.

    Returns:
        A function that returns whether a node has an input or output whose magnitude is near float16's limit.
    """
    _simplify(model)
    graph = model.graph
    outputs, nodes = list(graph.outputs), []
    values = [value for node in graph for value in node.outputs if value.type == ir.TensorType(_FLOAT32)]
    for index, value in enumerate(values):
        magnitude = ir.Node("", "Abs", [value])
        largest = ir.Value(name=f"largest_{index}", type=ir.TensorType(_FLOAT32), shape=ir.Shape(()))
        nodes += [
            magnitude,
            ir.Node("", "ReduceMax", magnitude.outputs, [ir.AttrInt64("keepdims", 0)], outputs=[largest]),
        ]
        graph.outputs.append(largest)
    graph.extend(nodes)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            ir.save(model, path, external_data="weights")
            names = [f"largest_{index}" for index in range(len(values))]
            magnitudes = open_session(path).run(names, dict(feeds))
    finally:
        graph.outputs[:] = outputs
        graph.remove(nodes, safe=True)
    high = {
        value.name
        for value, largest in zip(values, magnitudes, strict=True)
        if not largest <= _MAX_ACTIVATION
    }
    return lambda node: any(
        value is not None and value.name in high for value in (*node.inputs, *node.outputs)
    )


def computing_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes that compute float32 values, in order; simplifies the graph in place.

    Nodes that only move values, and those that always compute in float32, are left out.
    """
    _simplify(model)
    return [
        node
        for node in model.graph
        if node.op_type not in FLOAT32_OPS | LAYOUT_OPS
        and any(value.type == ir.TensorType(_FLOAT32) for value in node.outputs)
    ]


def _simplify(model: ir.Model) -> None:
    """Inline functions, make constants initializers, sort the nodes, and infer the type of every value."""
    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.OutputFixPass()(model)
    common.TopologicalSortPass()(model)
    if any(value.type is None for value in _values(model.graph)):
        common.ShapeInferencePass()(model)
    unknown = next((value.name for value in _values(model.graph) if value.type is None), None)
    if unknown is not None:
        raise UnsupportedError(
            f"the type of {unknown!r} in the graph is unknown", hint="check the graph with onnx.checker"
        )


class _Copies:
    """Copies of values in the other float type, one each: an initializer is rounded, anything else is cast."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self.dtype = dtype
        self.casts = 0
        self._graph = graph
        self._copies: dict[ir.Value, ir.Value] = {}
        self._names = Names(value.name for inner in (graph, *graph.subgraphs()) for value in _values(inner))
        self._rounded: dict[ir.Value, NDArray[np.generic]] = {}
        self._representable: dict[tuple[ir.Value, bool], bool] = {}

    def holds(self, value: ir.Value, every_element: bool) -> bool:
        """Whether half precision represents a constant well, as a whole or in every element (scales)."""
        key = value, every_element
        if key not in self._representable:
            exact, rounded = _array(value), self._round(value).astype(np.float32)
            with np.errstate(invalid="ignore"):  # a mask's infinities do not change
                error = np.where(exact == rounded, 0, exact - rounded)
            if every_element:
                self._representable[key] = bool((np.abs(error) <= _MAX_SCALE_ROUNDING * np.abs(exact)).all())
            else:
                finite = np.where(np.isfinite(exact), exact, 0)
                self._representable[key] = _norm(error) <= _MAX_ROUNDING * _norm(finite)
        return self._representable[key]

    def get(self, value: ir.Value, dtype: ir.DataType, user: ir.Node | None) -> ir.Value:
        """The value itself if it has `dtype`, otherwise its copy; a new Cast is placed before `user`, or last."""
        if value.dtype == dtype:
            return value
        if value not in self._copies:
            name = self._names.unused(f"{value.name}_{dtype.name.lower()}")
            copy = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
            if value.is_initializer() and not value.is_graph_input():
                copy.const_value = ir.Tensor(self._round(value), dtype, name=name)
                self._graph.register_initializer(copy)
            else:
                attributes = [ir.AttrInt64("to", dtype)]
                cast = ir.Node("", "Cast", [_uncast(value)], attributes, outputs=[copy], name=f"node_{name}")
                if user is None:
                    self._graph.append(cast)
                else:
                    self._graph.insert_before(user, cast)
                self.casts += 1
            self._copies[value] = copy
        return self._copies[value]

    def take_name(self, output: ir.Value) -> ir.Value:
        """The float32 copy of a graph output that is now half precision, with the output's name."""
        copy = self.get(output, _FLOAT32, None)
        name, output.name = output.name, self._names.unused(f"{output.name}_{self.dtype.name.lower()}")
        copy.name = name
        return copy

    def replace_initializers(self) -> None:
        """Remove float32 initializers that are no longer used; their copies take their names."""
        for value, copy in self._copies.items():
            if value.is_initializer() and not (
                value.uses() or value.is_graph_input() or value.is_graph_output()
            ):
                del self._graph.initializers[str(value.name)]
                copy.name = value.name

    def _round(self, value: ir.Value) -> NDArray[np.generic]:
        if value not in self._rounded:
            with np.errstate(over="ignore"):
                self._rounded[value] = _array(value).astype(self.dtype.numpy())
        return self._rounded[value]


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _uses(node: ir.Node) -> list[tuple[ir.Node, int, ir.Value]]:
    return [(node, index, value) for index, value in enumerate(node.inputs) if value is not None]


def _captured(node: ir.Node) -> Iterator[tuple[ir.Node, int, ir.Value]]:
    """The uses of values, from any graph, in a node's subgraphs."""
    for graph in subgraphs(node):
        for inner in graph:
            yield from _uses(inner)
            yield from _captured(inner)


def _uncast(value: ir.Value) -> ir.Value:
    """The integer source of a Cast, otherwise the value: one Cast to the final type is enough."""
    cast = value.producer()
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return value
    source = cast.inputs[0]
    return value if source.dtype is None or source.dtype.is_floating_point() else source


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None
    return value.const_value.numpy()


def _norm(array: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(array, dtype=np.float64).sum()))
