"""Exports a captured model to an OpenVINO `.xml` and `.bin`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import openvino
from timmx.plugin import Exported, Precision, sha256

from timmx_openvino.convert import convert, name_nodes, take_bytes
from timmx_openvino.ir import METADATA_KEY, WEIGHTS_SUFFIX
from timmx_openvino.model_info import KEY, model_info
from timmx_openvino.options import IoType, OpenVINOMode

if TYPE_CHECKING:
    from timmx.plugin import ExportJob

    from timmx_openvino.options import OpenVINOOptions

_PLACEHOLDER = "metadata of timmx"


def export(job: ExportJob, options: OpenVINOOptions) -> Exported:
    """Convert the captured model, lower its precision if requested, and write it with its metadata.

    Raises:
        ConfigurationError: the calibration data cannot be used with this model.
        UnsupportedError: OpenVINO's front end cannot convert an operation, `mode` is 4 bits and the model has no linear
            layer, or no plan meets the largest drop.
    """
    calibration = None
    if options.mode is OpenVINOMode.INT8:  # unusable data is refused before the long conversion
        calibration = job.calibration(options.calibration_data, options.calibration_samples)
    model = job.shared("float graph", lambda: convert(job)).clone()
    precision, notes = Precision.FP32, tuple[str, ...]()
    facts: dict[str, Any] = {"mode": str(options.mode)}
    if options.mode is OpenVINOMode.FP16:
        precision = Precision.FP16
    elif options.mode is OpenVINOMode.WEIGHT_INT8:
        from timmx_openvino.storage import in_8_bits

        job.progress("Quantizing the weights")
        model, precision = in_8_bits(model), Precision.INT8_WEIGHTS
    elif options.mode is OpenVINOMode.WEIGHT_INT4:
        from timmx_openvino.storage import BLOCK, in_4_bits

        job.progress("Quantizing the weights")
        (model, count), precision = in_4_bits(model), Precision.INT4_WEIGHTS
        facts |= {"int4_operations": count, "block_size": BLOCK}
    elif calibration is not None:
        from timmx_openvino.int8 import to_int8

        precision = Precision.INT8
        quantized = to_int8(model, job, calibration, options)
        model, notes = quantized.model, quantized.notes
        facts |= quantized.facts
    if options.io is IoType.UINT8:
        model = take_bytes(model)
    job.progress("Writing OpenVINO")
    return _write(job, model, precision, facts, notes, takes_bytes=options.io is IoType.UINT8)


def _write(
    job: ExportJob,
    model: openvino.Model,
    precision: Precision,
    facts: dict[str, Any],
    notes: tuple[str, ...],
    *,
    takes_bytes: bool,
) -> Exported:
    """Write the `.bin`, and the `.xml` with the hash of the `.bin` in its metadata."""
    name_nodes(model, job.output_names)
    (entry,) = model.inputs
    entry.node.set_layout(openvino.Layout("NHWC" if takes_bytes else "NCHW"))
    described: dict[str, Any] = {"input_dtype": "uint8", "input_layout": "NHWC"} if takes_bytes else {}
    weights = job.path.with_suffix(WEIGHTS_SUFFIX)
    model.set_rt_info(_PLACEHOLDER, METADATA_KEY)
    openvino.save_model(model, job.path, compress_to_fp16=precision is Precision.FP16)
    metadata = job.metadata(precision, **described, companions={WEIGHTS_SUFFIX: sha256(weights)}, **facts)
    info, more = model_info(metadata)
    entries = "".join(f"<{key} value={_quoted(value)} />" for key, value in info.items())
    text = f"<{KEY}>{entries}</{KEY}>" if info else ""
    text += f"<{METADATA_KEY} value={_quoted(metadata.dumps())} />"
    graph = job.path.read_text(encoding="utf-8")
    placeholder = f'<{METADATA_KEY} value="{_PLACEHOLDER}" />'
    assert graph.count(placeholder) == 1
    job.path.write_text(graph.replace(placeholder, text), encoding="utf-8", newline="")
    return Exported(precision, (*notes, *more))


def _quoted(text: str) -> str:
    """A value of an attribute, with the spaces that XML would change escaped."""
    return quoteattr(text, {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})
