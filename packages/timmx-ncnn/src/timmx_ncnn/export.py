"""Exports a captured model to an ncnn `.param` and `.bin`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import Exported, HalfPrecisionProgram, Precision, move_to_cpu, sha256

from timmx_ncnn.convert import convert
from timmx_ncnn.options import NcnnMode
from timmx_ncnn.param_file import METADATA_MARK, WEIGHTS_SUFFIX, digest
from timmx_ncnn.write import essentials, to_text, write_weights

if TYPE_CHECKING:
    from timmx.plugin import ExportJob

    from timmx_ncnn.layers import Layer
    from timmx_ncnn.options import NcnnOptions

_SAMPLES = 4
"""Inputs of the simulation of half precision."""


def export(job: ExportJob, options: NcnnOptions) -> Exported:
    """Translate the captured model to layers, and write them with the metadata behind them.

    Raises:
        UnsupportedError: ncnn has no layer for an operation, or a tensor has too many axes.
    """
    layers: list[Layer] = job.shared("layers", lambda: _layers(job))
    job.progress("Writing ncnn")
    half = options.mode is NcnnMode.FP16
    precision = Precision.FP16 if half else Precision.FP32
    weights = job.path.with_suffix(WEIGHTS_SUFFIX)
    with weights.open("wb") as file:
        write_weights(layers, file, half=half)
    text = to_text(layers)
    metadata = job.metadata(
        precision,
        mode=str(options.mode),
        companions={WEIGHTS_SUFFIX: sha256(weights)},
        layers_sha256=digest(text.splitlines()),
    )
    text += essentials(metadata) + METADATA_MARK + metadata.dumps() + "\n"
    job.path.write_text(text, encoding="utf-8", newline="")
    return Exported(precision, _notes(job) if half and job.request.verify else ())


def _notes(job: ExportJob) -> tuple[str, ...]:
    """A warning if half-precision arithmetic is too inexact, which the verification on an x86 CPU does not show."""
    job.progress("Simulating half precision")
    ratio_db = HalfPrecisionProgram(move_to_cpu(job.capture()), job.samples(_SAMPLES)).snr_db(())
    if ratio_db >= job.wish(Precision.FP16, None).floor_db:
        return ()
    return (
        f"In half-precision arithmetic, as on Arm CPUs and GPUs, the outputs have {ratio_db:.1f} dB by simulation. "
        "Turn off ncnn's options use_fp16_packed, use_fp16_storage and use_fp16_arithmetic there.",
    )


def _layers(job: ExportJob) -> list[Layer]:
    program = job.capture()
    job.progress("Converting to ncnn")
    return convert(move_to_cpu(program), job.output_names)
