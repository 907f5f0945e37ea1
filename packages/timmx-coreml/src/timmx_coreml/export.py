"""Exports the captured model to a `.mlpackage` or `.mlmodel`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from timmx.plugin import ConfigurationError, Exported, Precision, UnsupportedError, check_count

from timmx_coreml.compress import compress, halve
from timmx_coreml.convert import LABEL, PROBABILITIES, Conversion, convert
from timmx_coreml.describe import describe
from timmx_coreml.options import ComputePrecision, ConvertTo, Quantize
from timmx_coreml.package import LARGEST_MODEL, write
from timmx_coreml.targets import Target, ios_of
from timmx_coreml.validation import batch_bounds, check_image_channels, default_precision, deployment_target

if TYPE_CHECKING:
    from typing import Any

    from timmx.plugin import ExportJob

    from timmx_coreml.options import CoreMLOptions

_PRECISIONS = {
    Quantize.INT8: Precision.INT8_WEIGHTS,
    Quantize.INT4: Precision.INT4_WEIGHTS,
    Quantize.PALETTE8: Precision.INT8_WEIGHTS,
    Quantize.PALETTE6: Precision.INT6_WEIGHTS,
    Quantize.PALETTE4: Precision.INT4_WEIGHTS,
}


def export(job: ExportJob, options: CoreMLOptions) -> Exported:
    """Convert the capture, compress its weights if asked, describe it, and write it.

    Raises:
        ConfigurationError: the model does not fit `--image-input` or `--classifier`.
        UnsupportedError: coremltools cannot convert an operation.
    """
    notes: list[str] = []
    channels = job.example_input.shape[1]
    if options.image_input:
        check_image_channels(channels)
    labels = _labels(job) if options.classifier else None
    target = deployment_target(options)
    conversion = Conversion(
        kind=options.convert_to,
        target=target,
        precision=default_precision(options),
        batch=batch_bounds(options) if job.request.dynamic_batch else (),
        enumerated=options.batch_sizes is not None,
        image_input=options.image_input,
        labels=labels,
    )
    converted, conversion_notes, in_float32 = convert(job, conversion)
    notes.extend(conversion_notes)
    precision = _precision(options)
    if options.quantize is not Quantize.NONE:
        job.progress("Compressing the weights")
        grouped = target is not None and target.specification >= Target.IOS18.specification
        converted, count = compress(converted, options.quantize, grouped)
        if not count:
            notes.append(
                f"No weight is large enough for --quantize {options.quantize}: the weights stay uncompressed."
            )
        else:
            precision = _PRECISIONS[options.quantize]
    if options.classifier:
        exclusive = job.metadata(Precision.FP32).outputs[0].exclusive
        if not job.request.probabilities:
            flag = "--softmax" if exclusive else "--sigmoid"
            notes.append(f"{PROBABILITIES} holds logits, not probabilities. Add {flag} for probabilities.")
        if not exclusive:
            notes.append(
                f"The classes do not exclude each other: {LABEL} is only the most likely one; {PROBABILITIES} has all."
            )
    model = halve(converted) if options.half else converted.get_spec()
    facts: dict[str, Any] = {
        "kind": str(options.convert_to),
        "target": str(target or ios_of(model.specificationVersion)),
        "specification_version": model.specificationVersion,
        "quantize": str(options.quantize),
    }
    if in_float32:
        facts["float32_operations"] = in_float32
    if job.request.dynamic_batch:
        facts |= {"batch_sizes" if conversion.enumerated else "batch_range": list(conversion.batch)}
    if labels:
        facts |= {"label_output": LABEL, "probabilities_output": PROBABILITIES}
    metadata = job.metadata(precision, input_dtype="uint8" if options.image_input else "float32", **facts)
    job.progress("Writing Core ML")
    describe(model, metadata)
    if model.ByteSize() > LARGEST_MODEL:
        raise UnsupportedError(
            f"the model takes {model.ByteSize() / 1e9:.1f} GB, but one .mlmodel holds at most 2 GB",
            hint="use --half, or leave out --convert-to neuralnetwork to write a .mlpackage, which has a separate "
            "weight file",
        )
    weights = Path(converted.weights_dir) / "weight.bin" if converted.weights_dir else None
    write(job.path, model, weights if weights and weights.is_file() else None)
    return Exported(precision, tuple(notes))


def _precision(options: CoreMLOptions) -> Precision:
    """Return the precision of a model without compressed weights."""
    if options.convert_to is ConvertTo.NEURALNETWORK:
        return Precision.FP16 if options.half else Precision.FP32
    half = default_precision(options) is ComputePrecision.FLOAT16
    return Precision.FP16 if half else Precision.FP32


def _labels(job: ExportJob) -> tuple[str, ...]:
    """Return the class names for `--classifier`, one per class of the model's only output.

    Raises:
        ConfigurationError: there are none, or the model does not have one output of classes.
    """
    output, *more = job.metadata(Precision.FP32).outputs
    if more or not output.kind.ranks_classes:
        raise ConfigurationError(
            "--classifier needs a model with one output of classes (N, classes); this one gives "
            f"{', '.join(item.name for item in (output, *more))}",
            hint="leave out --classifier",
        )
    if output.shape[-1] == 1:
        raise ConfigurationError(
            f"--classifier needs at least two classes: with one, {LABEL} is the same for every image",
            hint="leave out --classifier, and read the probability of the class with --sigmoid",
        )
    if job.labels is None:
        raise ConfigurationError(
            "--classifier needs class names, and this model has none",
            hint="add --labels FILE, with one name per line",
        )
    check_count(job.labels, int(output.shape[1]))
    return job.labels
