"""Exports a captured model to strongly typed ONNX, from which engines are built, and checks it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from timmx.plugin import (
    ArtifactError,
    CalibrationMethod,
    IntegerScheme,
    LayerState,
    Precision,
    RuntimeUnavailable,
    UnsupportedError,
    VerificationError,
    WeightKey,
    plan_notes,
    reporter,
)
from timmx_onnx import (
    WEIGHTED,
    OnnxRunner,
    layers,
    lower_precision,
    nodes_in_float32,
    observe,
    opened,
    to_float16,
    translate,
    write,
)

from timmx_tensorrt.lint import lint
from timmx_tensorrt.options import TensorRTMode
from timmx_tensorrt.profile import choose_profile
from timmx_tensorrt.quantize import insert
from timmx_tensorrt.rounding import half_types
from timmx_tensorrt.targets import FP8, INT8, observed_values, targets
from timmx_tensorrt.typed_runner import TypedRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from timmx.plugin import Calibration, ExportJob, QuantizationPlan

    from timmx_tensorrt.options import TensorRTOptions
    from timmx_tensorrt.profile import Profile

PRECISIONS = {
    TensorRTMode.FP32: Precision.FP32,
    TensorRTMode.FP16: Precision.FP16,
    TensorRTMode.BF16: Precision.BF16,
    TensorRTMode.INT8: Precision.INT8,
    TensorRTMode.FP8: Precision.FP8,
}
_GRIDS = {TensorRTMode.INT8: INT8, TensorRTMode.FP8: FP8}


@dataclass(frozen=True)
class TypedOnnx:
    """A typed ONNX file.

    Attributes:
        precision: the arithmetic in the graph.
        facts: the entries of `format` in the metadata.
        profile: the batch sizes of the engine.
        notes: messages for the user.
    """

    precision: Precision
    facts: dict[str, Any]
    profile: Profile
    notes: tuple[str, ...]


def write_typed(job: ExportJob, options: TensorRTOptions, path: Path) -> TypedOnnx:
    """Translate the model, quantize it or lower its precision, write it, and check it without a GPU.

    Raises:
        ConfigurationError: the calibration data cannot be used with this model.
        UnsupportedError: TensorRT does not take the graph.
        VerificationError: the graph does not run at one of its batch sizes.
    """
    mode = options.chosen_mode
    profile = choose_profile(options, job.request.dynamic_batch, job.request.batch_size)
    facts: dict[str, Any] = {"mode": str(mode), "opset": options.chosen_opset, "profile": profile.facts()}
    calibration, grid = None, _GRIDS.get(mode)
    if grid is not None:  # unusable data is refused before the long translation
        calibration = job.calibration(options.calibration_data, options.calibration_samples)
    model = translate(job, options.chosen_opset)
    notes: tuple[str, ...] = ()
    plan: tuple[str, ...] = ()
    if calibration is not None and grid is not None:
        job.progress("Calibrating")
        method = options.calibration_method or CalibrationMethod.MINMAX
        ranges = observe(model, observed_values(model, grid), calibration, method)
        facts |= {"calibration": calibration.origin, "calibration_method": str(method)}
        if grid is INT8:
            model, facts["quantization_plan"] = _to_int8(model, job, calibration, ranges, options)
            plan = plan_notes(facts["quantization_plan"])
        else:
            insert(model, ranges, grid)
    if mode is TensorRTMode.FP16 or grid is not None:
        report, notes = to_float16(model, job, TypedRunner)
        facts["float32_operations"] = dict(report.float32_nodes)
        if grid is not None:
            facts["quantized_operations"] = quantized_operations(model)
    elif mode is TensorRTMode.BF16:
        job.progress("Lowering to bfloat16")
        kept: frozenset[str] = frozenset()
        if job.repair is not None:
            kept = nodes_in_float32(model, ir.DataType.BFLOAT16, job.repair, lambda node: False, TypedRunner)
            notes = (f"{len(kept)} operations stay in float32: with fewer, the file would miss its floor.",)
        report = lower_precision(model, ir.DataType.BFLOAT16, lambda node: node.name in kept)
        facts["float32_operations"] = dict(report.float32_nodes)
    precision = PRECISIONS[mode]
    job.progress("Writing the typed ONNX")
    write(model, path, job.metadata(precision, **facts))
    check_graph(path, dynamic=job.request.dynamic_batch)
    notes += plan + _note_for_other_tools(path)
    job.progress("Running the typed ONNX")
    check_batches(path, profile, job.example_input.cpu().numpy())
    return TypedOnnx(precision, facts, profile, notes)


def _to_int8(
    model: ir.Model,
    job: ExportJob,
    calibration: Calibration,
    ranges: Mapping[str, tuple[float, float]],
    options: TensorRTOptions,
) -> tuple[ir.Model, dict[str, Any]]:
    """Quantize the targets, except those that cost too much accuracy.

    Returns:
        The quantized graph, and the plan for the metadata.
    """
    method = options.calibration_method or CalibrationMethod.MINMAX
    scheme = IntegerScheme(symmetric=True, rounded_results=frozenset(), method=method)
    planner = job.quantization_planner(calibration, scheme)
    found = list(layers(model.graph))
    weights = [WeightKey.of(layer.weight) for layer in found]
    names = planner.match(weights)
    keys = {name: key for name, key in zip(names, weights, strict=True) if name}
    nodes = {layer.node for layer in targets(model).layers}
    chosen = [name for layer, name in zip(found, names, strict=True) if name and layer.node in nodes]
    proto = ir.to_proto(model)

    def build(plan: QuantizationPlan) -> tuple[ir.Model, Callable[[np.ndarray], Sequence[np.ndarray]]]:
        copy = ir.from_proto(proto)
        insert(copy, ranges, kept={keys[name] for name in plan.kept})
        return copy, opened(copy, integer_kernels=False)  # TensorRT's arithmetic does not saturate

    plan, quantized, measured = planner.choose(chosen, job.wish(Precision.INT8, options.max_drop), build)
    states = {name: LayerState.INTEGER for name in chosen if name not in plan.kept}
    return quantized, planner.facts(plan, measured, states)


def _note_for_other_tools(path: Path) -> tuple[str, ...]:
    """A note if ONNX Runtime cannot open the file without `rounding`, as other tools do."""
    try:
        OnnxRunner(path).close()
    except (ArtifactError, RuntimeUnavailable):
        return (
            f"ONNX Runtime {onnxruntime.__version__} cannot open this file, whose types are for TensorRT; timmx ran it "
            "in float32 and rounded every half-precision value. Build an engine from it.",
        )
    return ()


def check_graph(path: Path, *, dynamic: bool) -> tuple[str, ...]:
    """Refuse a graph that TensorRT would reject or silently misread.

    Returns:
        Warnings: what costs accuracy or speed.

    Raises:
        UnsupportedError: TensorRT would reject or misread the graph.
    """
    findings = lint(onnx.load(path), dynamic_batch=dynamic)
    for warning in findings.warnings:
        reporter().detail(str(warning))
    if findings.errors:
        shown = "; ".join(map(str, findings.errors[:5]))
        raise UnsupportedError(
            f"TensorRT would reject or misread this graph: {shown}",
            hint="try another --mode or --opset; if it is a timm model, report this as a bug in timmx",
        )
    return tuple(map(str, findings.warnings))


def check_batches(path: Path, profile: Profile, inputs: np.ndarray) -> None:
    """Run the graph at the smallest, the optimal and the largest batch size.

    Args:
        inputs: (N, C, H, W) float32 with any N, repeated as needed.

    Raises:
        VerificationError: the graph fails at one of them, returns another number of rows, or returns inf or NaN.
    """
    with TypedRunner(path) as runner:
        (entry,) = runner.inputs
        for size in profile.sizes:
            rows = np.resize(np.arange(len(inputs)), size)
            try:
                outputs = runner.run({entry.name: inputs[rows]})
            except Exception as exc:  # ONNX Runtime raises many types
                raise VerificationError(
                    f"the typed ONNX fails at a batch size of {size}: {' '.join(str(exc).split())[:300]}"
                ) from exc
            for name, array in outputs.items():
                if len(array) != size:
                    raise VerificationError(
                        f"the typed ONNX returns {len(array)} rows of {name} for a batch size of {size}: a size in the "
                        "graph is fixed",
                        hint="export without --dynamic-batch" if len(profile.sizes) > 1 else "",
                    )
                if not np.isfinite(array).all():
                    raise VerificationError(
                        f"the typed ONNX returns inf or NaN in {name}: its values exceed the range of the type",
                        hint="try --mode bf16, which has a larger range",
                    )


def precision_of(model: ir.Model) -> Precision:
    """The arithmetic of a graph, from its types."""
    stored_types = {
        value.dtype
        for node in model.graph
        if node.op_type == "DequantizeLinear"
        for value in (
            node.inputs[0],
            *node.inputs[2:],
        )  # in an edited graph only the zero point may have a type
        if value
    }
    for kind, precision in ((ir.DataType.INT8, Precision.INT8), (ir.DataType.FLOAT8E4M3FN, Precision.FP8)):
        if kind in stored_types:
            return precision
    halves = half_types(model)
    if ir.DataType.BFLOAT16 in halves:
        return Precision.BF16
    return Precision.FP16 if halves else Precision.FP32


def quantized_operations(model: ir.Model) -> dict[str, int]:
    """The number of nodes of each kind that TensorRT computes in 8 bits: both inputs come from a DequantizeLinear.

    A node that stays float32 because its values are near float16's limit has a Cast in between, and does not count.
    """
    counts = Counter(
        node.op_type
        for node in model.graph
        if node.op_type in WEIGHTED and all(_dequantized(value) for value in node.inputs[:2])
    )
    return dict(sorted(counts.items()))


def _dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def float32_nodes(model: ir.Model) -> list[str]:
    """The names of the nodes that compute in float32 while the rest does not; empty for a float32 graph."""
    if not half_types(model):
        return []
    conversions = ("Cast", "QuantizeLinear", "DequantizeLinear")
    return [
        str(node.name)
        for node in model.graph
        if node.op_type not in conversions and any(value.dtype is ir.DataType.FLOAT for value in node.outputs)
    ]
