"""From a capture to an `.onnx` file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from timmx.contract import Exported, Precision
from timmx.errors import UnsupportedError

from timmx_onnx.plugin import OnnxMode
from timmx_onnx.proto import METADATA_KEY

if TYPE_CHECKING:
    from timmx.contract import ExportJob

    from timmx_onnx.plugin import OnnxOptions

_PROTOBUF_LIMIT = 2**31 - 1
_GRAPH_ROOM = 64 * 2**20
"""Left for the graph itself when weights are weighed against protobuf's limit."""


def export(job: ExportJob, options: OnnxOptions) -> Exported:
    """Translate the capture, lower its precision if asked, and write it with its metadata.

    Raises:
        UnsupportedError: PyTorch's exporter has no translation of an operation, or the weights do not fit
            into one file that `external_data` insists on.
    """
    model = _translate(job, options)
    precision = Precision.FP32
    if options.mode is OnnxMode.FP16:
        from timmx_onnx.precision import lower_precision

        job.progress("Lowering to float16")
        lower_precision(model, ir.DataType.FLOAT16)
        precision = Precision.FP16
    # The exporter notes the stack trace of every node, with the paths of this machine.
    ClearMetadataAndDocStringPass()(model)
    metadata = job.metadata(precision, opset=options.opset, ir_version=model.ir_version)
    model.metadata_props[METADATA_KEY] = json.dumps(metadata, sort_keys=True)
    job.progress("Writing ONNX")
    weights = (value.const_value for value in model.graph.initializers.values())
    weights_bytes = sum(int(tensor.nbytes) for tensor in weights if tensor is not None)
    external = options.external_data
    if external is None:
        external = weights_bytes > _PROTOBUF_LIMIT - _GRAPH_ROOM
    elif not external and weights_bytes > _PROTOBUF_LIMIT - _GRAPH_ROOM:
        raise UnsupportedError(
            f"The weights take {weights_bytes / 1e9:.1f} GB, and one ONNX file holds 2 GB: leave out "
            "--no-external-data."
        )
    ir.save(model, job.path, external_data=f"{job.path.name}.data" if external else None)
    onnx.checker.check_model(str(job.path), full_check=True)
    return Exported(precision)


def _translate(job: ExportJob, options: OnnxOptions) -> ir.Model:
    program = job.capture()
    job.progress("Translating to ONNX")
    shapes = ({0: "batch"},) if job.request.dynamic_batch else None
    try:
        translated = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=["input"],
            output_names=list(job.output_names),
            opset_version=options.opset,
            dynamic_shapes=shapes,
            optimize=options.optimize,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as exc:
        reason = str(exc.__cause__ or exc).strip().splitlines()[0]
        raise UnsupportedError(
            f"PyTorch's ONNX exporter cannot translate this model to opset {options.opset}: {reason} "
            "Another --opset may have the operation; timmx torch-export holds the model in any case."
        ) from exc
    assert translated is not None  # with dynamo=True there is always a program
    return translated.model
