"""From a capture to a `.tflite` file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from timmx.plugin import (
    CalibrationMethod,
    Exported,
    OutputKind,
    Precision,
    TensorSpec,
    UnsupportedError,
    feed,
)

from timmx_litert import task_metadata
from timmx_litert.convert import convert
from timmx_litert.model_file import LIMIT, LIMIT_HINT, METADATA_NAME, edge_quantization, finish
from timmx_litert.options import IoType, LiteRTMode
from timmx_litert.quantize import Integers, halve, make_integer, store_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from timmx.plugin import Calibration, ExportJob, Metadata

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
    """Calibration inputs as the float file takes them; can be gone through several times."""

    def __init__(self, calibration: Calibration, spec: TensorSpec) -> None:
        self._calibration, self._spec = calibration, spec

    def __iter__(self) -> Iterator[np.ndarray]:
        for array in self._calibration.batches(int(self._spec.shape[0])):
            yield feed(self._spec, array)


def export(job: ExportJob, options: LiteRTOptions) -> Exported:
    """Convert the capture, quantize it if asked, name its edges, and write it with its metadata.

    Raises:
        ConfigurationError: the calibration data cannot serve this model.
        UnsupportedError: litert-torch has no lowering of an operation.
    """
    notes: list[str] = []
    facts: dict[str, Any] = {"mode": str(options.mode)}
    calibration = None
    if options.mode.calibrated:  # data that cannot serve is refused before the long conversion
        calibration = job.calibration(options.calibration_data, options.calibration_samples)
    elif options.calibration_data is not None:
        notes.append(f"--mode {options.mode} needs no ranges: --calibration-data is not read.")
    # In integers the quantizer makes bytes of the edge; elsewhere the graph itself turns bytes into numbers.
    integer_edges = options.mode is LiteRTMode.INT8 and options.io is not IoType.FLOAT32
    pixel_bytes = options.io is IoType.UINT8 and not integer_edges
    content = convert(job, nhwc=options.takes_nhwc, pixel_bytes=pixel_bytes)
    if options.mode.quantized:
        facts["per_channel"] = options.per_channel is not False
    if calibration is not None:
        job.progress("Calibrating and quantizing")
        method = options.calibration_method or CalibrationMethod.MINMAX
        wanted = Integers(
            bits=16 if options.mode is LiteRTMode.INT16X8 else 8,
            io=options.io if integer_edges else IoType.FLOAT32,
            per_channel=options.per_channel is not False,
            method=method,
            edge=_input_range(job),
            pixel_bytes=pixel_bytes,
            probabilities=job.request.softmax,
        )
        shape, layout = tuple(job.example_input.shape), "NHWC" if options.takes_nhwc else "NCHW"
        spec = TensorSpec(
            name="input", shape=shape, dtype="uint8" if pixel_bytes else "float32", layout=layout
        )
        content, plan = make_integer(content, _Inputs(calibration, spec), wanted, job.progress)
        if left := _left_in_float(plan):
            notes.append(f"{left} Hardware that computes in integers alone leaves them to the CPU.")
        facts |= {
            "calibration": calibration.origin,
            "calibration_method": str(method),
            "integer_operations": len(plan.integer),
            "stored_operations": len(plan.stored),
            "float_operations": plan.float_kinds,
        }
    elif options.mode is LiteRTMode.FP16:
        content = halve(content)
    elif options.mode is not LiteRTMode.FP32:
        job.progress("Quantizing the weights")
        content = store_weights(content, options.mode, per_channel=options.per_channel is not False)
    _write(job, options, content, facts, notes)
    return Exported(_PRECISIONS[options.mode], tuple(notes))


def _left_in_float(plan: Plan) -> str:
    """Which operations compute in float, since integers would cost the answers too much."""
    counts = dict(plan.float_kinds)
    if plan.stored:
        counts |= {"convolutions and matrix products with 8-bit weights": len(plan.stored)}
    if not counts:
        return ""
    return f"In float compute: {', '.join(f'{count} {kind}' for kind, count in counts.items())}."


def _write(
    job: ExportJob,
    options: LiteRTOptions,
    content: bytes,
    facts: dict[str, Any],
    notes: list[str],
) -> None:
    job.progress("Writing LiteRT")
    entry, outputs = edge_quantization(content)
    layout: Literal["NCHW", "NHWC"] = "NHWC" if options.takes_nhwc else "NCHW"
    dtype: Any = entry.dtype
    metadata = job.metadata(
        _PRECISIONS[options.mode],
        input_dtype=dtype,
        input_layout=layout,
        input_quantization=entry.quantization,
        output_dtypes={name: edge.dtype for name, edge in outputs.items() if edge.dtype != "float32"},
        output_quantization={
            name: edge.quantization for name, edge in outputs.items() if edge.quantization is not None
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
    if reasons := _unfit_for_media_pipe(metadata):
        notes.append(f"MediaPipe's image classifier cannot serve this file: {'; '.join(reasons)}.")
    finished = finish(
        content,
        output_names=job.output_names,
        description=metadata.model.name,
        metadata=entries,
    )
    if len(finished) > LIMIT:
        raise UnsupportedError(
            f"the file would take {len(finished) / 1e9:.1f} GB, and one .tflite file holds at most 2 GB",
            hint=LIMIT_HINT,
        )
    with job.path.open("wb") as file:
        file.write(finished)
        task_metadata.append_files(file, files)


def _unfit_for_media_pipe(metadata: Metadata) -> list[str]:
    """Why MediaPipe's image classifier (1.2.3) refuses a file or feeds it wrongly, each with what helps."""
    entry = metadata.input
    reasons = []
    if entry.layout == "NCHW":
        reasons.append("its input is (N, C, H, W), and --nhwc-input changes that")
    if entry.dtype == "int8":
        reasons.append("its edges are int8, where --io uint8 is read")
    if metadata.outputs[0].shape[0] != 1:
        reasons.append("its batch size is not 1")
    if entry.size[0] != 3:
        reasons.append(f"it takes pictures of {entry.size[0]} channels, not 3")
    elif not entry.normalized_in_graph and not len(set(entry.mean)) == len(set(entry.std)) == 1:
        reasons.append("mean and std differ between channels, and --normalize puts them into the file")
    if not all(output.kind.ranks_classes for output in metadata.outputs):
        reasons.append("its outputs are no classes")
    return reasons


def _input_range(job: ExportJob) -> tuple[float, float]:
    """The least and greatest value that the model's input takes, exact where the graph normalises."""
    return job.metadata(Precision.FP32).input.value_range


def _task_metadata(metadata: Metadata, labels: tuple[str, ...] | None) -> bytes:
    """What Android's task libraries want to know: how to fill the input, what the outputs are."""
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
        description=f"A picture of {size[1]} x {size[0]} pixels.",
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
            description=output.kind.capitalize(),
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
