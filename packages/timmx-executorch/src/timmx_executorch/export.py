"""Exports a captured model to a `.pte` file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import Exported, Precision, UnsupportedError, move_to_cpu

from timmx_executorch.arithmetic import apply
from timmx_executorch.convert import finish, partitioners, tag_weights, to_edge
from timmx_executorch.delegation import LEAST_SHARE, Delegation, measure
from timmx_executorch.interface import interface
from timmx_executorch.lower import lower
from timmx_executorch.options import Delegate, Mode
from timmx_executorch.pte_file import reading, weights_file
from timmx_executorch.validation import BATCH_MAX

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import ExportJob

    from timmx_executorch.options import ExecuTorchOptions

PRECISIONS = {
    Mode.FP32: Precision.FP32,
    Mode.FP16: Precision.FP16,
    Mode.WEIGHT_INT8: Precision.INT8_WEIGHTS,
    Mode.DYNAMIC_INT8: Precision.INT8_WEIGHTS,
    Mode.INT8: Precision.INT8,
}


def export(job: ExportJob, options: ExecuTorchOptions) -> Exported:
    """Convert the captured model, and write it with its metadata.

    Raises:
        ConfigurationError: the calibration data cannot be used with this model.
        UnsupportedError: ExecuTorch has no kernel for an operation.
    """
    precision = PRECISIONS[options.mode]
    facts: dict[str, Any] = {"mode": str(options.mode), "delegate": str(options.delegate)}
    batch_max = None
    if job.request.dynamic_batch:
        batch_max = options.batch_max or BATCH_MAX
        facts["batch_range"] = [1, batch_max]
    calibration = None
    if options.mode is Mode.INT8:  # unusable data is refused before the long conversion
        calibration = job.calibration(options.calibration_data, options.calibration_samples)
    lowered = lower(move_to_cpu(job.capture()), job.example_input.cpu(), batch_max)
    arithmetic = apply(job, options, lowered, calibration, batch_max)
    facts |= arithmetic.facts
    job.progress("Converting to ExecuTorch")
    if options.external_weights:
        tag_weights(arithmetic.program)
    with partitioners(options.delegate, options.mode) as chosen:
        edge = to_edge(arithmetic.program, chosen)
    if options.delegate is Delegate.COREML:
        from timmx_executorch.core_ml import name_models

        name_models(edge)
    delegation = measure(edge)
    facts |= delegation.facts
    job.progress("Writing ExecuTorch")

    def describe(companions: dict[str, str]) -> str:
        return job.metadata(precision, **facts | ({"companions": companions} if companions else {})).dumps()

    written = finish(edge, describe, external_weights=options.external_weights)
    notes = (*arithmetic.notes, *_notes(delegation, options.delegate))
    if options.external_weights and written.weights is None:
        notes += ("All weights are inside: nothing of this program can be in a second file.",)
    for path, content in ((weights_file(job.path), written.weights), (job.path, written.program)):
        if content is not None:
            with path.open("wb") as file:
                content.write_to_file(file)
    if batch_max is not None:
        _check_batches(job.path, batch_max)
    return Exported(precision, notes)


def _check_batches(path: Path, batch_max: int) -> None:
    """Refuse a program whose batch torch has restricted while it derived shapes."""
    with reading(path) as file:
        found = interface(path, file).batch_max
    if found != batch_max:
        raise UnsupportedError(
            f"in ExecuTorch this model takes batches of at most {found or 1}",
            hint=f"use --batch-max {found}" if found else "leave --dynamic-batch out",
        )


def _notes(delegation: Delegation, delegate: Delegate) -> tuple[str, ...]:
    """Which operations the delegate leaves out, if they matter."""
    if delegate is Delegate.PORTABLE or delegation.share >= LEAST_SHARE:
        return ()
    names = ", ".join(f"{name} ({madds / 1e6:.0f} M)" for name, madds in delegation.heavy.most_common(5))
    return (
        f"{delegate} computes only {100 * delegation.share:.0f} % of the multiply-adds. ExecuTorch's own kernels, "
        f"which are slower, compute {names}.",
    )
