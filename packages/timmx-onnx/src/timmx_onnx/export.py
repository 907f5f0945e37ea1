"""Exports a captured model to an `.onnx` file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from timmx.plugin import (
    Exported,
    Precision,
    UnsupportedError,
    quick_decompositions,
    sha256,
)

import timmx_onnx.rules  # noqa: F401 - corrects onnxscript's rules
from timmx_onnx.attention import with_four_axes
from timmx_onnx.int4 import BLOCK
from timmx_onnx.keys import DATA_KEY, METADATA_KEY
from timmx_onnx.options import ONE_FILE, IoType, OnnxMode
from timmx_onnx.pixels import take_bytes
from timmx_onnx.pooling import pooling_translations
from timmx_onnx.proto import external_name, read_proto
from timmx_onnx.storage import store_accurately

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from timmx.plugin import ExportJob, Metadata, Runner

    from timmx_onnx.options import OnnxOptions
    from timmx_onnx.precision import PrecisionReport


def export(job: ExportJob, options: OnnxOptions) -> Exported:
    """Translate the captured model, lower its precision if requested, and write it with its metadata.

    Raises:
        UnsupportedError: PyTorch's exporter cannot translate an operation, the weights do not fit into one file and
            `external_data` is False, or `mode` is 4 bits and the model has no linear layer.
    """
    calibration = None
    if options.mode is OnnxMode.INT8:  # unusable data is refused before the long translation
        calibration = job.calibration(options.calibration_data, options.calibration_samples)
    model = translate(job, options.opset, optimize=options.optimize)
    precision = Precision.FP32
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = {}
    if options.mode is OnnxMode.FP16:
        precision = Precision.FP16
        report, notes = to_float16(model, job)
        facts["float32_operations"] = dict(report.float32_nodes)
    elif options.mode in (OnnxMode.WEIGHT_INT8, OnnxMode.WEIGHT_INT4):
        job.progress("Quantizing the weights")
        storage = store_accurately(model, job, four_bits=options.mode is OnnxMode.WEIGHT_INT4)
        precision, notes = storage.precision, storage.notes
        facts["stored_operations"] = storage.stored
        if options.mode is OnnxMode.WEIGHT_INT4:
            facts |= {"int4_operations": storage.in_blocks, "block_size": BLOCK}
    elif calibration is not None:
        from timmx_onnx.int8 import to_int8  # imports onnxruntime

        precision = Precision.INT8
        quantized = to_int8(model, job, calibration, options)
        model, notes = quantized.model, quantized.notes
        facts |= quantized.facts
    facts |= {"opset": options.opset, "ir_version": model.ir_version}
    if options.io is IoType.UINT8:
        take_bytes(model)
        metadata = job.metadata(precision, input_dtype="uint8", input_layout="NHWC", **facts)
    else:
        metadata = job.metadata(precision, **facts)
    job.progress("Writing ONNX")
    write(model, job.path, metadata, options.external_data)
    return Exported(precision, notes)


def translate(job: ExportJob, opset: int, *, optimize: bool = True) -> ir.Model:
    """Translate the captured model to a float32 graph; a dynamic batch dimension is called `batch`.

    Args:
        opset: ONNX operator set version.
        optimize: fold constants and fuse operators.

    Raises:
        UnsupportedError: PyTorch's exporter cannot translate an operation.
    """
    import timmx_onnx.translations  # noqa: F401 - makes each further export of this process faster

    program = with_four_axes(job.capture())
    job.progress("Translating to ONNX")
    shapes = ({0: "batch"},) if job.request.dynamic_batch else None
    try:
        # The exporter decomposes the program; with gradients enabled, attention takes another kernel than in the
        # capture, with other strides, and test_vit_relpos fails ("Cannot view a tensor").
        with torch.no_grad(), quick_decompositions():
            translated = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=["input"],
                output_names=list(job.output_names),
                opset_version=opset,
                dynamic_shapes=shapes,
                custom_translation_table=pooling_translations(program),
                optimize=optimize,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as exc:
        reason = str(exc.__cause__ or exc).strip().splitlines()[0]
        raise UnsupportedError(
            f"PyTorch's ONNX exporter cannot translate this model to opset {opset}: {reason.rstrip('.')}",
            hint="try another --opset, which may have the operation, or use timmx torch-export",
        ) from exc
    assert translated is not None  # with dynamo=True there is always a program
    # The exporter stores the stack trace of every node, with paths of this machine.
    ClearMetadataAndDocStringPass()(translated.model)
    return translated.model


def to_float16(
    model: ir.Model, job: ExportJob, open_file: Callable[[Path], Runner] | None = None
) -> tuple[PrecisionReport, tuple[str, ...]]:
    """Convert the graph to float16 in place; returns a report, and notes on further operations that stay float32.

    Args:
        open_file: opens a file as it is verified, for a repair; by default in ONNX Runtime.
    """
    from timmx_onnx.precision import lower_precision, overflowing
    from timmx_onnx.repair import nodes_in_float32
    from timmx_onnx.runner import OnnxRunner

    job.progress("Lowering to float16")
    overflows = overflowing(model, {"input": job.example_input.cpu().numpy()})
    count = sum(map(overflows, model.graph))
    accurate: frozenset[str] = frozenset()
    if job.repair is not None:
        accurate = nodes_in_float32(
            model, ir.DataType.FLOAT16, job.repair, overflows, open_file or OnnxRunner
        )
    report = lower_precision(
        model, ir.DataType.FLOAT16, lambda node: overflows(node) or node.name in accurate
    )
    notes = []
    if accurate:
        notes.append(
            f"{len(accurate)} operations stay in float32: with fewer, the file would miss its floor."
        )
    if count:
        notes.append(f"{count} operations stay in float32: their values are near float16's limit of 65504.")
    if report.out_of_range:
        notes.append(f"{len(report.out_of_range)} constants stay in float32: float16 cannot represent them.")
    return report, tuple(notes)


def write(model: ir.Model, path: Path, metadata: Metadata, external: bool | None = None) -> None:
    """Save a graph with its metadata and the hash of a second file, and check the file with `onnx.checker`.

    Args:
        external: store the weights in a second file; None stores them there only if one file cannot hold them.

    Raises:
        UnsupportedError: `external` is False, and the weights do not fit into one file.
    """
    model.metadata_props[METADATA_KEY] = metadata.dumps()
    weights = (value.const_value for value in model.graph.initializers.values())
    weights_bytes = sum(int(tensor.nbytes) for tensor in weights if tensor is not None)
    if external is None:
        external = weights_bytes > ONE_FILE
    elif not external and weights_bytes > ONE_FILE:
        raise UnsupportedError(
            f"the weights take {weights_bytes / 1e9:.1f} GB, and one ONNX file holds at most 2 GB",
            hint="leave --no-external-data out",
        )
    ir.save(model, path, external_data=external_name(path) if external else None)
    data = path.with_name(external_name(path))
    if external and data.is_file():  # there is none if all weights are tiny
        proto = read_proto(path)
        proto.metadata_props.add(key=DATA_KEY, value=sha256(data))
        path.write_bytes(proto.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
