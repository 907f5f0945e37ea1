"""From a capture to the strongly typed ONNX that engines are built from, checked."""

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
    Precision,
    RuntimeUnavailable,
    UnsupportedError,
    VerificationError,
    reporter,
)
from timmx_onnx import OnnxRunner, lower_precision, to_float16, translate, write

from timmx_tensorrt.calibrate import observe
from timmx_tensorrt.lint import lint
from timmx_tensorrt.options import TensorRTMode
from timmx_tensorrt.profile import choose_profile
from timmx_tensorrt.quantize import insert
from timmx_tensorrt.rounding import half_types
from timmx_tensorrt.targets import FP8, INT8, WEIGHTED, observed_values
from timmx_tensorrt.typed_runner import TypedRunner

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import ExportJob

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
class Typed:
    """A typed ONNX that was written.

    Attributes:
        precision: the arithmetic inside.
        facts: what the metadata says of it under `format`.
        profile: the batches that it is for.
        notes: what the user should know.
    """

    precision: Precision
    facts: dict[str, Any]
    profile: Profile
    notes: tuple[str, ...]


def write_typed(job: ExportJob, options: TensorRTOptions, path: Path) -> Typed:
    """Translate, quantize or lower, write, and check what can be checked without a GPU.

    Raises:
        ConfigurationError: the calibration data cannot serve this model.
        UnsupportedError: the graph holds what TensorRT does not take.
        VerificationError: the graph does not run at one of its batches.
    """
    mode = options.chosen_mode
    profile = choose_profile(options, job.request.dynamic_batch, job.request.batch_size)
    facts: dict[str, Any] = {"mode": str(mode), "opset": options.chosen_opset, "profile": profile.facts()}
    calibration, grid = None, _GRIDS.get(mode)
    if grid is not None:  # data that cannot serve is refused before the long translation
        calibration = job.calibration(options.calibration_data, options.calibration_samples)
    model = translate(job, options.chosen_opset)
    notes: tuple[str, ...] = ()
    if calibration is not None and grid is not None:
        job.progress("Calibrating")
        method = options.calibration_method or CalibrationMethod.MINMAX
        batch = 1 if job.request.dynamic_batch else profile.tuned_for
        ranges = observe(model, observed_values(model, grid), calibration, batch, method)
        insert(model, ranges, grid)
        facts |= {"calibration": calibration.origin, "calibration_method": str(method)}
    if mode is TensorRTMode.FP16 or grid is not None:
        lowered, notes = to_float16(model, job)
        facts["float32_operations"] = dict(lowered.float32_nodes)
        if grid is not None:
            facts["quantized_operations"] = quantized_operations(model)
    elif mode is TensorRTMode.BF16:
        job.progress("Lowering to bfloat16")
        facts["float32_operations"] = dict(lower_precision(model, ir.DataType.BFLOAT16).float32_nodes)
    precision = PRECISIONS[mode]
    job.progress("Writing the typed ONNX")
    write(model, path, job.metadata(precision, **facts))
    check(path, dynamic=job.request.dynamic_batch)
    notes += _runs_elsewhere(path)
    job.progress("Running the typed ONNX")
    check_batches(path, profile, job.example_input.cpu().numpy())
    return Typed(precision, facts, profile, notes)


def _runs_elsewhere(path: Path) -> tuple[str, ...]:
    """A note where ONNX Runtime cannot open the file itself, as timmx.open and other tools would."""
    try:
        OnnxRunner(path).close()
    except (ArtifactError, RuntimeUnavailable):
        return (
            f"ONNX Runtime {onnxruntime.__version__} does not open this file, whose types are TensorRT's: timmx ran it "
            "with every half-precision number rounded. Build an engine from it.",
        )
    return ()


def check(path: Path, *, dynamic: bool) -> tuple[str, ...]:
    """Refuse what TensorRT would reject, or would misread in silence.

    Returns:
        What it reads as it was written, but what costs accuracy or time.

    Raises:
        UnsupportedError: with what was found.
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
    """Run the graph at the smallest batch, the one that an engine is tuned for, and the largest.

    Args:
        inputs: (N, C, H, W) float32 of any N, repeated as needed.

    Raises:
        VerificationError: it fails at one of them, or gives another number of answers, or numbers that are none.
    """
    with TypedRunner(path) as runner:
        (entry,) = runner.inputs
        for size in profile.sizes:
            rows = np.resize(np.arange(len(inputs)), size)
            try:
                found = runner.run({entry.name: inputs[rows]})
            except Exception as exc:  # ONNX Runtime raises many kinds
                raise VerificationError(
                    f"the typed ONNX fails at a batch size of {size}: {' '.join(str(exc).split())[:300]}"
                ) from exc
            for name, array in found.items():
                if len(array) != size:
                    raise VerificationError(
                        f"the typed ONNX gives {len(array)} rows of {name} for a batch size of {size}: a size in it "
                        "is fixed",
                        hint="export without --dynamic-batch" if len(profile.sizes) > 1 else "",
                    )
                if not np.isfinite(array).all():
                    raise VerificationError(
                        f"the typed ONNX gives inf or NaN in {name}: its values exceed the range of the type",
                        hint="try --mode bf16, which has a larger range",
                    )


def precision_of(model: ir.Model) -> Precision:
    """The arithmetic that the types of a graph say."""
    stored = {
        value.dtype
        for node in model.graph
        if node.op_type == "DequantizeLinear"
        for value in (
            node.inputs[0],
            *node.inputs[2:],
        )  # the zero point has a type where an edited value has none
        if value
    }
    for kind, precision in ((ir.DataType.INT8, Precision.INT8), (ir.DataType.FLOAT8E4M3FN, Precision.FP8)):
        if kind in stored:
            return precision
    halves = half_types(model)
    if ir.DataType.BFLOAT16 in halves:
        return Precision.BF16
    return Precision.FP16 if halves else Precision.FP32


def quantized_operations(model: ir.Model) -> dict[str, int]:
    """How many nodes of each kind TensorRT computes with 8-bit numbers: both inputs come from a DequantizeLinear.

    One that stays float32 since it comes near float16's limit has a Cast between, and is none of them.
    """
    found = Counter(
        node.op_type
        for node in model.graph
        if node.op_type in WEIGHTED and all(_dequantized(value) for value in node.inputs[:2])
    )
    return dict(sorted(found.items()))


def _dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def float32_nodes(model: ir.Model) -> list[str]:
    """The names of the nodes that compute in float32 where the rest does not; none of a float32 graph."""
    if not half_types(model):
        return []
    moved = ("Cast", "QuantizeLinear", "DequantizeLinear")
    return [
        str(node.name)
        for node in model.graph
        if node.op_type not in moved and any(value.dtype is ir.DataType.FLOAT for value in node.outputs)
    ]
