"""Finds what a strongly typed TensorRT 10 or 11 build rejects in an ONNX graph, misreads silently, or runs slowly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from timmx_onnx import WEIGHTED

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCALE_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_QUANTIZED_TYPES = (ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN)
_SMALLEST_NORMAL_HALF = 2.0**-14
_HALF_SCALES_OPSET = 19
_SAFE_OPSETS = range(18, 23)
_ELEMENTWISE = frozenset("Clip Elu Gelu HardSwish Identity LeakyRelu MaxPool PRelu Relu".split())
_LAYOUT = frozenset("Identity Reshape Transpose".split())


@dataclass(frozen=True)
class Finding:
    """One problem in the graph and how to fix it.

    Attributes:
        where: the name of the node, input or output; empty for the graph as a whole.
        reason: what is wrong, and the fix.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


@dataclass(frozen=True)
class Findings:
    """The result of `lint`.

    Attributes:
        errors: TensorRT rejects or misreads the graph.
        warnings: TensorRT reads the graph correctly, and accuracy or speed suffers.
    """

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def lint(model: onnx.ModelProto | ir.Model, dynamic_batch: bool = False) -> Findings:
    """Find what TensorRT's parser and builder do not take, without TensorRT.

    The rules are those of the ONNX importer from 10.1 on, and of NVIDIA's guide to explicit quantization.

    Args:
        model: a valid ONNX graph; it is not changed.
        dynamic_batch: whether the first axis of inputs and outputs must be symbolic; other axes must not be.
    """
    ir_model = ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model
    findings = _Collector()
    _check_opset(ir_model, findings)
    _check_inputs_and_outputs(ir_model.graph, dynamic_batch, findings)
    _check_domains(ir_model, findings)
    _check_doubles(ir_model.graph, findings)
    for node in ir_model.graph.all_nodes():
        if _is(node, "QuantizeLinear", "DequantizeLinear"):
            _check_data_type(node, findings)
            _check_zero_point(node, findings)
            _check_scale(node, ir_model.opset_imports.get("", 0), findings)
        elif node.op_type in WEIGHTED:
            _check_operands(node, findings)
        elif node.op_type == "Add":
            _check_residual(node, findings)
    return Findings(tuple(findings.errors), tuple(findings.warnings))


@dataclass
class _Collector:
    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def error(self, where: ir.Node | ir.Value | None, reason: str) -> None:
        self.errors.append(Finding(_name(where), reason))

    def warn(self, where: ir.Node | ir.Value | None, reason: str) -> None:
        self.warnings.append(Finding(_name(where), reason))


def _check_opset(model: ir.Model, findings: _Collector) -> None:
    opset = model.opset_imports.get("", 0)
    if opset not in _SAFE_OPSETS:
        findings.warn(
            None,
            f"opset {opset} is not supported by every version of TensorRT 10 and 11: export with 18 to 22",
        )


def _check_inputs_and_outputs(graph: ir.Graph, dynamic_batch: bool, findings: _Collector) -> None:
    """Types and sizes of the graph's inputs and outputs."""
    batches: set[str] = set()
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    for value in (*inputs, *graph.outputs):
        if value.dtype != ir.DataType.FLOAT:
            kind = value.dtype.name if value.dtype else "of unknown type"
            findings.error(value, f"is {kind}: inputs and outputs must be float32 in every mode")
        sizes: list[Any] = list(value.shape or ())
        batch, others = sizes[:1], sizes[1:]
        if dynamic_batch:
            if not batch or isinstance(batch[0], int):
                findings.error(value, "has no dynamic batch size: the graph is for one batch size")
            else:
                batches.add(str(batch[0]))
        else:
            others = sizes
        if value.shape is None or any(not isinstance(size, int) for size in others):
            findings.error(value, "has an unknown size: TensorRT would need a range for it")
    if dynamic_batch and len(batches) > 1:
        findings.error(
            None, f"inputs and outputs have different names for the batch size: {', '.join(sorted(batches))}"
        )


def _check_domains(model: ir.Model, findings: _Collector) -> None:
    local = {(function.domain, function.name) for function in model.functions.values()}
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in local:
            findings.error(
                node, f"{node.domain}.{node.op_type} is not standard ONNX: TensorRT needs a plugin for it"
            )


def _check_doubles(graph: ir.Graph, findings: _Collector) -> None:
    double = ir.DataType.DOUBLE
    for value in graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == double:
            findings.error(value, "is a float64 constant, which TensorRT does not have: store it as float32")
    for node in graph.all_nodes():
        if any(value.dtype == double for value in node.outputs):
            findings.error(node, "outputs float64, in which TensorRT does not compute: cast to float32 first")


def _check_data_type(node: ir.Node, findings: _Collector) -> None:
    """Check the 8-bit type of a Q or DQ node."""
    dtype = _quantized_type(node)
    if dtype is None:
        findings.error(
            node, "has no zero point: ONNX then means uint8, and TensorRT reads int8; add an int8 zero point"
        )
    elif dtype == ir.DataType.UINT8:
        findings.error(
            node, "is uint8, which TensorRT reads as int8, so that 128 and more saturate; use int8"
        )
    elif dtype == ir.DataType.INT32:
        findings.error(node, "is int32, like a bias, which TensorRT does not take; leave the bias float")
    elif dtype not in _QUANTIZED_TYPES:
        findings.error(node, f"is {dtype.name}; TensorRT takes only int8 and FLOAT8E4M3FN")


def _check_zero_point(node: ir.Node, findings: _Collector) -> None:
    zero_point = _zero_point(node)
    if zero_point is None:
        return
    zeros = _array(zero_point)
    if zeros is None:
        findings.error(node, "has a zero point that is computed; make it a constant")
        return
    if zeros.astype(np.float32).any():
        findings.error(node, "has a zero point other than 0; TensorRT's quantization is symmetric")
    scales = _array(node.inputs[1])
    if scales is not None and scales.size != zeros.size:
        findings.error(
            node, f"has {scales.size} scales and {zeros.size} zero points; use the same number of both"
        )


def _check_scale(node: ir.Node, opset: int, findings: _Collector) -> None:
    scales = _array(node.inputs[1])
    if scales is None:
        findings.error(node, "has a scale that is computed, or absent; make it a constant")
        return
    scale = node.inputs[1]
    dtype = None if scale is None else scale.dtype
    if dtype not in _SCALE_TYPES:
        findings.error(node, "has a scale that is not float32, float16 or bfloat16")
        return
    numbers = scales.astype(np.float64)
    if not (np.isfinite(numbers).all() and (numbers > 0).all()):
        findings.error(
            node, "has a scale that is not finite and above 0; leave values without a range in float"
        )
        return
    if dtype == ir.DataType.FLOAT16 and opset < _HALF_SCALES_OPSET:
        findings.error(
            node, f"has a float16 scale, which needs opset {_HALF_SCALES_OPSET}; this graph has {opset}"
        )
    if dtype == ir.DataType.FLOAT16 and numbers.min() < _SMALLEST_NORMAL_HALF:
        findings.warn(
            node, f"has a scale of {numbers.min():.1e}, which a GPU may flush to 0; keep it in float32"
        )
    constant = _array(node.inputs[0])
    used = node.op_type == "QuantizeLinear" if constant is None else bool(constant.any())
    if used and (numbers == 1).any():
        findings.warn(node, "has a scale of exactly 1: the calibration failed, or the range is too small")
    if numbers.size > 1 or numbers.ndim > 1:
        _check_channels(node, numbers, findings)


def _check_channels(node: ir.Node, scales: NDArray[np.float64], findings: _Collector) -> None:
    """Check several scales: they are for constants only, along the axis of the output channels."""
    constant = _array(_quantized_source(node))
    if constant is None:
        findings.error(node, "has one scale per channel for an activation; TensorRT takes one scale for all")
        return
    if scales.ndim > 1 or "block_size" in node.attributes:
        findings.error(node, "has one scale per block, which 8-bit types do not support; use one per channel")
        return
    if "axis" not in node.attributes:
        findings.error(node, "has no axis for its scales; some parsers assume 0 and others 1, so write it")
        return
    axis = node.attributes["axis"].as_int()
    if not -constant.ndim <= axis < constant.ndim or constant.shape[axis] != scales.size:
        findings.error(
            node,
            f"has {scales.size} scales on axis {axis} of a constant of shape {constant.shape}; these differ",
        )
        return
    for user, index in node.outputs[0].uses():
        channel_axis = _channel_axis(user) if index == 1 else None
        if channel_axis is not None and axis % constant.ndim != channel_axis:
            findings.error(
                node,
                f"has its scales on axis {axis}; the output channels of {user.op_type} are on {channel_axis}",
            )


def _check_operands(node: ir.Node, findings: _Collector) -> None:
    """Check that all or none of a layer's operands are quantized, and never its bias."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if _dequantize_node(bias) is not None:
        findings.error(node, "has a quantized bias, which TensorRT does not take; leave it float")
    pairs = [_dequantize_node(value) for value in node.inputs[:2]]
    if any(_dequantize_node(_before_cast(value)) is not None for value in node.inputs[:2]):
        findings.warn(
            node,
            "computes in float32: between it and its Q/DQ pairs is a Cast, which prevents fusion",
        )
    elif any(pairs) and not all(pairs):
        missing = "weight" if pairs[0] else "input"
        findings.warn(node, f"computes in float, since its {missing} is not quantized; quantize both or none")
    if any(pair and _quantized_type(pair) == ir.DataType.FLOAT8E4M3FN for pair in pairs):
        _check_float8(node, findings)


def _check_float8(node: ir.Node, findings: _Collector) -> None:
    if node.op_type == "ConvTranspose":
        findings.error(
            node, "is a transposed convolution of float8, which TensorRT does not have; leave it float"
        )
    elif node.attributes.get_int("group", 1) > 1:
        findings.error(node, "is a grouped convolution of float8, which has no kernel; leave it float")


def _check_residual(add: ir.Node, findings: _Collector) -> None:
    """Check a sum with a convolution's result: TensorRT fuses both in int8 if only the other branch is int8."""
    if any(_array(value) is not None for value in add.inputs):
        return
    pairs = [_dequantize_node(value) for value in add.inputs]
    if all(pair is not None for pair in pairs):
        if any(_is(_before_pair(pair), "Conv") for pair in pairs):
            findings.warn(
                add, "has both inputs quantized, so that no Conv is fused with it; quantize only the shortcut"
            )
        return
    convs = [value.producer() for value in add.inputs if value is not None]
    in_integers = any(
        conv is not None and _is(conv, "Conv") and _of_int8(_dequantize_node(conv.inputs[0]))
        for conv in convs
    )
    if in_integers and pairs == [None, None] and _requantized(add.outputs[0]):
        findings.warn(add, "has a float shortcut, so that Conv and Add return floats; quantize the shortcut")


def _requantized(value: ir.Value) -> bool:
    """Whether a value is quantized again, possibly after an activation."""
    return any(
        _is(user, "QuantizeLinear") or (_is(user, *_ELEMENTWISE) and _requantized(user.outputs[0]))
        for user, _ in value.uses()
    )


def _dequantize_node(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear from which a value comes, also through a transpose or a reshape."""
    node = None if value is None else value.producer()
    while node is not None and _is(node, *_LAYOUT):
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return node if node is not None and _is(node, "DequantizeLinear") else None


def _before_cast(value: ir.Value | None) -> ir.Value | None:
    """The input of the Cast from which a value comes; None if it does not come from a Cast."""
    node = None if value is None else value.producer()
    return node.inputs[0] if node is not None and _is(node, "Cast") else None


def _of_int8(dequantize: ir.Node | None) -> bool:
    return dequantize is not None and _quantized_type(dequantize) == ir.DataType.INT8


def _before_pair(dequantize: ir.Node | None) -> ir.Node | None:
    """The node that computes the value that a pair quantizes."""
    source = None if dequantize is None else _quantized_source(dequantize)
    return None if source is None else source.producer()


def _quantized_source(node: ir.Node) -> ir.Value | None:
    """The input of a Q node, or of the Q node before a DQ node; otherwise the integers themselves."""
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    if node.op_type == "DequantizeLinear" and producer is not None and _is(producer, "QuantizeLinear"):
        return producer.inputs[0]
    return value


def _quantized_type(node: ir.Node) -> ir.DataType | None:
    """The type of the integers that a Q node returns or a DQ node takes; None if the graph does not contain it."""
    zero_point = _zero_point(node)
    if zero_point is not None:
        return zero_point.dtype
    if node.op_type == "QuantizeLinear":
        output_dtype = node.attributes.get_int("output_dtype", 0)
        return ir.DataType(output_dtype) if output_dtype else None
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    if producer is not None and _is(producer, "QuantizeLinear"):
        return _quantized_type(producer)
    return None if value is None else value.dtype


def _zero_point(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _channel_axis(layer: ir.Node) -> int | None:
    """The axis of the output channels in a layer's weight; None for a node without a weight."""
    axes = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
    if layer.op_type == "Gemm":
        return 0 if layer.attributes.get_int("transB", 0) else 1
    return axes.get(layer.op_type)


def _array(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of a constant; None for a computed value or an input."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _is(node: ir.Node | None, *op_types: str) -> bool:
    return node is not None and node.domain in ("", "ai.onnx") and node.op_type in op_types


def _name(where: ir.Node | ir.Value | None) -> str:
    """The name of a node or value; a node without a name has the name of its output."""
    if isinstance(where, ir.Node):
        return str(where.name or where.outputs[0].name)
    return "" if where is None else str(where.name)
