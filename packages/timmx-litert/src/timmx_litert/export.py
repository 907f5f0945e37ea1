"""Exports a captured model to a `.tflite` file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from timmx.plugin import (
    CalibrationMethod,
    Exported,
    IntegerScheme,
    OutputKind,
    Precision,
    TensorSpec,
    UnsupportedError,
    feed,
    plan_notes,
)

from timmx_litert import task_metadata
from timmx_litert.convert import convert
from timmx_litert.model_file import LIMIT, LIMIT_HINT, METADATA_NAME, finish, read_io_tensors
from timmx_litert.options import IoType, LiteRTMode
from timmx_litert.quantize import IntegerSettings, halve, make_integer, store_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from timmx.plugin import Calibration, ExportJob, Metadata, OutputMetadata

    from timmx_litert.options import LiteRTOptions
    from timmx_litert.plan import Plan

_PRECISIONS = {
    LiteRTMode.FP32: Precision.FP32,
    LiteRTMode.FP16: Precision.FP16,
    LiteRTMode.DYNAMIC_INT8: Precision.INT8_WEIGHTS,
    LiteRTMode.WEIGHT_INT8: Precision.INT8_WEIGHTS,
    LiteRTMode.INT8: Precision.INT8,
    LiteRTMode.INT16X8: Precision.INT16X8,
}
_LABELS_FILE = "labels.txt"


class _Inputs:
    """Calibration inputs as the float file takes them; can be iterated several times."""

    def __init__(self, calibration: Calibration, spec: TensorSpec) -> None:
        self._calibration, self._spec = calibration, spec

    def __iter__(self) -> Iterator[np.ndarray]:
        for array in self._calibration.batches(int(self._spec.shape[0])):
            yield feed(self._spec, array)


def export(job: ExportJob, options: LiteRTOptions) -> Exported:
    """Convert the captured model, quantize it if requested, and write it with its metadata.

    Raises:
        ConfigurationError: the calibration data cannot be used with this model.
        UnsupportedError: litert-torch has no lowering of an operation.
    """
    notes: list[str] = []
    facts: dict[str, Any] = {"mode": str(options.mode)}
    calibration = None
    if options.mode.calibrated:  # unusable data is refused before the long conversion
        calibration = job.calibration(options.calibration_data, options.calibration_samples)
    elif options.calibration_data is not None:
        notes.append(f"--mode {options.mode} needs no ranges: --calibration-data is not read.")
    # In --mode int8 the quantizer changes the I/O types; in the others the graph converts bytes to floats.
    integer_io = options.mode is LiteRTMode.INT8 and options.io is not IoType.FLOAT32
    pixel_bytes = options.io is IoType.UINT8 and not integer_io
    nhwc = options.takes_nhwc
    content = job.shared(  # all modes start from it
        ("float file", nhwc, pixel_bytes), lambda: convert(job, nhwc=nhwc, pixel_bytes=pixel_bytes)
    )
    if options.mode.quantized:
        facts["per_channel"] = options.per_channel is not False
    if calibration is not None:
        method = options.calibration_method or CalibrationMethod.MINMAX
        settings = IntegerSettings(
            bits=16 if options.mode is LiteRTMode.INT16X8 else 8,
            io=options.io if integer_io else IoType.FLOAT32,
            per_channel=options.per_channel is not False,
            method=method,
            input_range=_input_range(job),
            pixel_bytes=pixel_bytes,
            probabilities=job.request.probabilities,
        )
        shape, layout = tuple(job.example_input.shape), "NHWC" if options.takes_nhwc else "NCHW"
        spec = TensorSpec(
            name="input", shape=shape, dtype="uint8" if pixel_bytes else "float32", layout=layout
        )
        scheme = IntegerScheme(
            bits=settings.bits,
            symmetric=settings.bits == 16,
            per_channel=settings.per_channel,
            method=method,
            clips_hardswish=True,
        )
        planner = job.quantization_planner(calibration, scheme)
        wish = job.wish(_PRECISIONS[options.mode], options.max_drop)
        made = make_integer(
            content,
            _Inputs(calibration, spec),
            settings,
            planner,
            wish,
            lambda batch: feed(spec, batch),
        )
        content, plan = made.content, made.plan
        shown = planner.facts(made.choice, made.measured, made.states)
        notes += plan_notes(shown)
        if float_operations := _float_operations(plan):
            notes.append(
                f"Computed in float: {float_operations}. Hardware with integer arithmetic only leaves them to the CPU."
            )
        facts |= {
            "calibration": calibration.origin,
            "calibration_method": str(method),
            "integer_operations": len(plan.integer),
            "stored_operations": len(plan.weight_only),
            "float_operations": plan.float_kinds,
            "quantization_plan": shown,
        }
    elif options.mode is LiteRTMode.FP16:
        content = halve(content)
    elif options.mode is not LiteRTMode.FP32:
        job.progress("Quantizing the weights")
        content = store_weights(content, options.mode, per_channel=options.per_channel is not False)
    _write(job, options, content, facts, notes)
    return Exported(_PRECISIONS[options.mode], tuple(notes))


def _float_operations(plan: Plan) -> str:
    """The operations that compute in float, because integers would cost too much accuracy."""
    counts = dict(plan.float_kinds)
    if plan.weight_only:
        counts |= {"convolutions and matrix products with 8-bit weights": len(plan.weight_only)}
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _write(
    job: ExportJob,
    options: LiteRTOptions,
    content: bytes,
    facts: dict[str, Any],
    notes: list[str],
) -> None:
    job.progress("Writing LiteRT")
    entry, outputs = read_io_tensors(content)
    layout: Literal["NCHW", "NHWC"] = "NHWC" if options.takes_nhwc else "NCHW"
    dtype: Any = entry.dtype
    metadata = job.metadata(
        _PRECISIONS[options.mode],
        input_dtype=dtype,
        input_layout=layout,
        input_quantization=entry.quantization,
        output_dtypes={name: tensor.dtype for name, tensor in outputs.items() if tensor.dtype != "float32"},
        output_quantization={
            name: tensor.quantization for name, tensor in outputs.items() if tensor.quantization is not None
        },
        **facts,
    )
    entries = {METADATA_NAME: metadata.dumps().encode()}
    channels = metadata.input.size[0]
    files: dict[str, bytes] = {}
    if layout == "NHWC" and channels in (1, 3):
        entries[task_metadata.NAME] = _task_metadata(metadata, job.labels)
        if job.labels:
            files[_LABELS_FILE] = task_metadata.labels_content(job.labels)
    if reasons := _media_pipe_problems(metadata):
        notes.append(f"MediaPipe's image classifier cannot use this file: {'; '.join(reasons)}.")
    artifact = finish(
        content,
        output_names=job.output_names,
        description=metadata.model.name,
        metadata=entries,
    )
    if len(artifact) > LIMIT:
        raise UnsupportedError(
            f"the file would take {len(artifact) / 1e9:.1f} GB, and one .tflite file holds at most 2 GB",
            hint=LIMIT_HINT,
        )
    with job.path.open("wb") as file:
        file.write(artifact)
        task_metadata.append_files(file, files)


def _media_pipe_problems(metadata: Metadata) -> list[str]:
    """Why MediaPipe's image classifier (1.2.3) refuses a file or feeds it wrongly, each with the flag that helps."""
    entry = metadata.input
    reasons = []
    if entry.layout == "NCHW":
        reasons.append("its input is (N, C, H, W), and --nhwc-input changes that")
    if entry.dtype == "int8":
        reasons.append("its input is int8, and --io uint8 changes that")
    if metadata.outputs[0].shape[0] != 1:
        reasons.append("its batch size is not 1")
    if entry.size[0] != 3:
        reasons.append(f"it takes images with {entry.size[0]} channels, not 3")
    elif not entry.normalized_in_graph and not len(set(entry.mean)) == len(set(entry.std)) == 1:
        reasons.append("mean and std differ between channels, and --normalize puts them into the file")
    if not all(output.kind.ranks_classes for output in metadata.outputs):
        reasons.append("its outputs are not classes")
    return reasons


def _input_range(job: ExportJob) -> tuple[float, float]:
    """The smallest and largest value of the model's input; exact if the graph normalizes."""
    return job.metadata(Precision.FP32).input.value_range


def _output_text(output: OutputMetadata) -> str:
    text = output.kind.capitalize()
    if output.to_probabilities != "none":
        text += f"; {output.to_probabilities} converts them to probabilities"
    return (
        text
        if output.exclusive
        else f"{text}. Classes do not exclude each other: each has its own probability"
    )


def _task_metadata(metadata: Metadata, labels: tuple[str, ...] | None) -> bytes:
    """The metadata of Android's task libraries: how to fill the input, what the outputs are."""
    entry, model = metadata.input, metadata.model
    channels, *size = entry.size
    low, high = entry.value_range
    if entry.dtype == "uint8" and entry.quantization is None:
        mean, std = [0.0], [1.0]
    elif entry.normalized_in_graph:
        mean, std = [0.0], [255.0]
    else:
        mean, std = [255 * value for value in entry.mean], [255 * value for value in entry.std]
        if len(set(mean)) == len(set(std)) == 1:
            mean, std = mean[:1], std[:1]
    image = task_metadata.ImageInput(
        name="input",
        description=f"An image of {size[1]} x {size[0]} pixels.",
        minimum=(low,),
        maximum=(high,),
        channels=channels,
        size=(size[0], size[1]),
        mean=tuple(mean),
        std=tuple(std),
    )
    outputs = [
        task_metadata.Output(
            name=output.name,
            description=_output_text(output),
            minimum=(0.0,) if output.kind is OutputKind.PROBABILITIES else (),
            maximum=(1.0,) if output.kind is OutputKind.PROBABILITIES else (),
            labels_file=_LABELS_FILE if labels and output.kind.ranks_classes else None,
        )
        for output in metadata.outputs
    ]
    return task_metadata.build(
        name=model.name,
        description=f"{model.architecture} from {model.source}, exported by timmx.",
        version=metadata.weights_version,
        author=metadata.author,
        license=model.license,
        inputs=[image],
        outputs=outputs,
    )
