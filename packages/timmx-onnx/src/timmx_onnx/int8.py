"""Computes a float32 graph in int8 where that is accurate and faster, with ONNX Runtime's quantizer (Q/DQ pairs)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxruntime.quantization import CalibrationMethod as RangeOrigin, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from timmx.plugin import (
    HARDSWISH_ZERO,
    CalibrationMethod,
    IntegerScheme,
    LayerKind,
    LayerState,
    Precision,
    WeightKey,
    plan_notes,
    worst_db,
)

from timmx_onnx.calibrate import observe
from timmx_onnx.fusions import keep_float_layers, merge_biases
from timmx_onnx.names import Names, add_constant, name_nodes
from timmx_onnx.regions import integer_nodes, is_global_average
from timmx_onnx.runner import OnnxRunner
from timmx_onnx.running import opened, run_model
from timmx_onnx.speed import speed_table
from timmx_onnx.weights import infer_shapes, layers, storable, store_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from timmx.plugin import Calibration, ExportJob, QuantizationPlan, QuantizationPlanner

    from timmx_onnx.options import OnnxOptions
    from timmx_onnx.weights import Layer

_Built = tuple[ir.Model, dict[str, LayerState]]
_SATURATION_INPUTS = 8
_REDUCED, _FULL = 64, 127
_ACTIVATIONS = frozenset(("HardSigmoid", "HardSwish", "ReduceMean"))
"""Operators without an integer kernel that are written as others that have one."""


@dataclass(frozen=True)
class IntegerGraph:
    """The result of `to_int8`.

    Attributes:
        model: the quantized graph.
        facts: the entries of `format` in the metadata.
        notes: messages for the user.
    """

    model: ir.Model
    facts: dict[str, Any]
    notes: tuple[str, ...]


def to_int8(
    model: ir.Model,
    job: ExportJob,
    calibration: Calibration,
    options: OnnxOptions,
) -> IntegerGraph:
    """Choose the layers by their accuracy and the table of operator speeds, quantize them, and measure the graph.

    Layers that integers would not make faster store their weights in 8 bits, as in `--mode weight-int8`.

    Args:
        model: float32; changed.
        calibration: inputs from `job`.
        options: how ranges are chosen, the largest drop, and whether weights have 7 bits.

    Raises:
        ConfigurationError: a drop cannot be measured with this model and these inputs.
        UnsupportedError: no plan meets the largest drop.
    """
    method, reduce_range = options.calibration_method or CalibrationMethod.MINMAX, options.reduce_range
    scheme = IntegerScheme(
        weight_limit=_REDUCED if reduce_range else _FULL,
        rounded_results=frozenset((LayerKind.CONVOLUTION,)),
        method=method,
        clips_hardswish=True,
    )
    planner = job.quantization_planner(calibration, scheme)
    _prepare(model)
    matched, without_kernel = _match(model, planner)
    named = matched | without_kernel
    stored = {
        named[name]: LayerState.STORED
        for layer in storable(model.graph)
        if (name := str(layer.node.name)) in named
    }
    job.progress("Choosing layers for integers")
    ranges = observe(model, _float_values(model), calibration, method)
    for name in _read_by_hardswish(model):
        low, high = ranges[name]
        ranges[name] = max(low, HARDSWISH_ZERO), high
    proto = ir.to_proto(model)
    speeds = speed_table(vnni=not reduce_range)

    def choose(graph: ir.Model, names: Collection[str]) -> frozenset[str]:
        nodes = [node for node in graph.graph if str(node.name) in names]
        return frozenset(str(node.name) for node in integer_nodes(graph, nodes, speeds))

    # Measured with the arithmetic that ONNX defines, so that the file is the same on every machine.
    def build(plan: QuantizationPlan) -> tuple[_Built, Callable[[np.ndarray], Sequence[np.ndarray]]]:
        copy = ir.from_proto(proto)
        chosen = choose(copy, {node for node, name in matched.items() if name not in plan.kept})
        states = stored | {name: LayerState.INTEGER for node, name in matched.items() if node in chosen}
        quantized = _quantize(copy, chosen, ranges, reduce_range=reduce_range)
        store_weights(quantized, lambda node: matched.get(str(node.name), "") in plan.kept)
        states |= dict.fromkeys(plan.kept, LayerState.FLOAT)
        return (quantized, states), opened(quantized, integer_kernels=False)

    fast = choose(ir.from_proto(proto), matched)
    candidates = [name for node, name in matched.items() if node in fast]
    wish = job.wish(Precision.INT8, options.max_drop)
    plan, (result, states), measured = planner.choose(candidates, wish, build)
    shown = planner.facts(plan, measured, states)
    shown |= {"assumes": _assumption(reduce_range), "speed_table": speeds.cpu}
    facts = {
        "calibration": calibration.origin,
        "calibration_method": str(method),
        "quantization_plan": shown,
    }
    notes = plan_notes(shown)
    if not reduce_range and _saturates(result, job, measured.snr_db):
        notes += (
            "This CPU adds 8-bit products in 16 bits, which saturate: here the file is less accurate than on Arm or on "
            "x86 with VNNI. --reduce-range avoids that.",
        )
    return IntegerGraph(result, facts, notes)


def _saturates(model: ir.Model, job: ExportJob, measured_db: float) -> bool:
    """Whether the kernels of this CPU add more noise than the integers."""
    inputs = job.samples(_SATURATION_INPUTS)
    exact = run_model(model, inputs, partial(OnnxRunner, integer_kernels=False))
    return worst_db(exact, run_model(model, inputs)) < measured_db


def _assumption(reduce_range: bool) -> str:
    if reduce_range:
        return "any CPU"
    return "Arm, or x86 with VNNI; on other x86 CPUs, sums of two products saturate"


def _prepare(model: ir.Model) -> None:
    """Name all nodes, infer the shapes of all values, and make each weight a constant of its own."""
    name_nodes(model)
    infer_shapes(model)
    graph = model.graph
    names = Names.of(graph)
    for layer in list(layers(graph)):
        source = layer.node.inputs[1]
        assert source is not None
        if source.const_value is None or len(source.uses()) > 1:
            weight = np.ascontiguousarray(layer.weight)
            layer.node.replace_input_with(
                1, add_constant(graph, names.unused(f"{source.name}_weight"), weight)
            )
    common.RemoveUnusedNodesPass()(model)


def _match(model: ir.Model, planner: QuantizationPlanner) -> tuple[dict[str, str], dict[str, str]]:
    """The names of the planner's layers by the name of the node: of those with an integer kernel, and of the others."""
    found = list(layers(model.graph))
    names = planner.match([WeightKey.of(layer.weight) for layer in found])
    matched = [(layer, name) for layer, name in zip(found, names, strict=True) if name is not None]
    with_kernel, without = (
        {str(layer.node.name): name for layer, name in matched if _has_kernel(layer) is kernel}
        for kernel in (True, False)
    )
    return with_kernel, without


def _has_kernel(layer: Layer) -> bool:
    """Whether ONNX Runtime has an integer kernel for a layer."""
    node = layer.node
    if node.op_type == "Conv":
        return layer.weight.ndim == 4
    if node.op_type == "ConvTranspose":
        return False
    return layer.weight.ndim == 2 and not node.attributes.get_int("transA", 0)


def _float_values(model: ir.Model) -> list[str]:
    """The names of all values that a Q/DQ pair could take."""
    graph = model.graph
    values = [value for node in graph for value in node.outputs if value.dtype is ir.DataType.FLOAT]
    return [str(value.name) for value in (*graph.inputs, *values)]


def _read_by_hardswish(model: ir.Model) -> list[str]:
    """The names of the values that nothing but HardSwish reads."""
    values = [node.inputs[0] for node in model.graph if node.op_type == "HardSwish"]
    return [
        str(value.name)
        for value in values
        if value is not None
        and not value.is_graph_output()
        and all(user.op_type == "HardSwish" for user, _ in value.uses())
    ]


def _quantize(
    model: ir.Model, chosen: Collection[str], ranges: Mapping[str, tuple[float, float]], *, reduce_range: bool
) -> ir.Model:
    """Insert Q/DQ pairs around the chosen nodes."""
    ranges = dict(ranges)
    chosen = set(chosen)
    scales = _rewrite_activations(model, chosen, ranges)
    merge_biases(model, chosen)
    quantizer = QDQQuantizer(
        ir.to_proto(model),
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(
            RangeOrigin.MinMax,
            {
                name: TensorData(lowest=np.float32(low), highest=np.float32(high))
                for name, (low, high) in ranges.items()
                if low <= high
            },
        ),
        nodes_to_quantize=sorted(chosen),
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in model.graph if node.name in chosen}),
        extra_options={
            "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
            "ForceQuantizeNoInputCheck": True,  # reshapes and pools that are chosen too
        },
    )
    quantizer.quantize_model()
    result = ir.from_proto(quantizer.model.model)
    _scale_results(result, scales)
    _give_floats(result, chosen)
    keep_float_layers(result)
    common.RemoveUnusedNodesPass()(result)
    common.TopologicalSortPass()(result)
    return result


def _rewrite_activations(
    model: ir.Model, chosen: set[str], ranges: dict[str, tuple[float, float]]
) -> dict[str, float]:
    """Write the chosen activation functions as sums and products, for which ONNX Runtime has integer kernels.

    HardSigmoid(x) = a * clip(x + b / a, 0, 1 / a). The clip is the range of an integer, and its factor a part of the
    scale with which it is dequantized: so they cost one sum, and HardSwish one product more.

    Returns:
        The factor of the scale with which values are dequantized, by the name of the value.
    """
    graph = model.graph
    names = Names.of(graph)
    scales: dict[str, float] = {}
    for node in list(graph):
        if node.name not in chosen or node.op_type not in _ACTIVATIONS:
            continue
        chosen.discard(str(node.name))
        source, result = node.inputs[0], node.outputs[0]
        assert source is not None
        if node.op_type == "ReduceMean":
            assert is_global_average(node)
            created = [ir.node("GlobalAveragePool", [source], name=f"{node.name}_pool")]
            final = created[0].outputs[0]
        else:
            hard_swish = node.op_type == "HardSwish"
            alpha = 1 / 6 if hard_swish else node.attributes.get_float("alpha", 0.2)
            beta = 0.5 if hard_swish else node.attributes.get_float("beta", 0.5)
            # ONNX Runtime adds a scalar to (1, C, 1, 1) element by element, ten times slower than a vector (1.32).
            shape = [size for size in source.shape or () if isinstance(size, int)]
            vector = len(shape) == 4 and shape[2:] == [1, 1]
            offset = add_constant(
                graph,
                names.unused(f"{result.name}_offset"),
                np.full([1, *shape[1:]] if vector else [], beta / alpha, np.float32),
            )
            ends = [
                add_constant(graph, names.unused(f"{result.name}_{end}"), np.array(value, np.float32))
                for end, value in (("low", 0.0), ("high", 1 / alpha))
            ]
            add = ir.node("Add", [source, offset], name=f"{node.name}_add")
            clip = ir.node("Clip", [add.outputs[0], *ends], name=f"{node.name}_clip")
            created = [add, clip]
            add.outputs[0].name, final = names.unused(f"{result.name}_sum"), clip.outputs[0]
            ranges[str(add.outputs[0].name)] = (0.0, 1 / alpha)
            if hard_swish:
                clip.outputs[0].name = names.unused(f"{result.name}_gate")
                created.append(ir.node("Mul", [source, clip.outputs[0]], name=f"{node.name}_mul"))
                final = created[-1].outputs[0]
                gate = str(clip.outputs[0].name)
            else:
                gate = str(result.name)
            ranges[gate] = (0.0, 1 / alpha)
            scales[gate] = alpha
        for item in created:
            for output in item.outputs:
                output.type, output.shape = result.type, result.shape if output is final else source.shape
        graph.insert_before(node, created)
        chosen.update(str(item.name) for item in created)
        name = result.name
        result.name = f"{name}_replaced"
        final.name = name
        ir.convenience.replace_all_uses_with(result, final, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    return scales


def _scale_results(model: ir.Model, scales: Mapping[str, float]) -> None:
    """Multiply the scales with which values are dequantized; they are quantized with the former ones."""
    names = Names.of(model.graph)
    left = dict(scales)
    for node in model.graph:
        if node.op_type != "DequantizeLinear":
            continue
        quantize = node.inputs[0].producer() if node.inputs[0] is not None else None
        source = quantize.inputs[0] if quantize is not None else None
        factor = left.pop(str(source.name), None) if source is not None else None
        if factor is None:
            continue
        scale = node.inputs[1]
        assert scale is not None
        assert scale.const_value is not None
        value = (scale.const_value.numpy() * np.float32(factor)).astype(np.float32)
        node.replace_input_with(1, add_constant(model.graph, names.unused(f"{scale.name}_factor"), value))
    assert not left, left


def _give_floats(model: ir.Model, chosen: Collection[str]) -> None:
    """Let nodes in float use a value of a node in float as it is, also if others use it quantized."""
    for node in list(model.graph):
        if (
            node.op_type != "QuantizeLinear"
            or node.inputs[0] is None
            or node.inputs[0].const_value is not None
        ):
            continue
        value = node.inputs[0]
        producer = value.producer()
        if producer is not None and producer.name in chosen and producer.op_type not in ("MatMul", "Gemm"):
            continue
        for dequantize, _ in list(node.outputs[0].uses()):
            for user, index in list(dequantize.outputs[0].uses()):
                if user.name not in chosen:
                    user.replace_input_with(index, value)
