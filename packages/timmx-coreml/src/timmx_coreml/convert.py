"""Converts a captured program with coremltools: one call of `ct.convert`, its arguments and its errors."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timmx.plugin import UnsupportedError, move_to_cpu

from timmx_coreml.errors import OTHER_FORMATS
from timmx_coreml.float32_islands import float32_islands
from timmx_coreml.lower import lower
from timmx_coreml.options import ComputePrecision, ConvertTo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.plugin import ExportJob

    from timmx_coreml.targets import Target


LABEL, PROBABILITIES = "classLabel", "classLabel_probs"
"""coremltools' names for the outputs of a classifier."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The settings of one conversion.

    Attributes:
        target: an iOS deployment target; None for the oldest that can run the neuralnetwork.
        batch: minimum and maximum batch size, or all batch sizes if `enumerated`; empty if it is fixed.
        labels: class names; if set, the model becomes a classifier.
    """

    kind: ConvertTo
    target: Target | None
    precision: ComputePrecision
    batch: tuple[int, ...] = ()
    enumerated: bool = False
    image_input: bool = False
    labels: tuple[str, ...] | None = None


def convert(job: ExportJob, conversion: Conversion) -> tuple[Any, tuple[str, ...], int]:
    """Convert the captured model.

    Returns:
        A `coremltools.models.MLModel` that is not loaded, notes for the user, and the number of operations that stay in
        float32 in a float16 program.

    Raises:
        UnsupportedError: coremltools cannot convert it.
    """
    program = job.capture()
    job.progress("Converting to Core ML")
    program = move_to_cpu(program)
    notes: tuple[str, ...] = ()
    in_float32 = 0
    with quiet():
        import coremltools as ct

        program = lower(program)
        arguments: dict[str, Any] = {}
        names = job.output_names
        if conversion.kind is ConvertTo.MLPROGRAM:
            arguments["compute_precision"] = ct.precision.FLOAT32
            if conversion.precision is ComputePrecision.FLOAT16:
                arguments["compute_precision"], notes, in_float32 = _float16(program, job)
        if conversion.labels is not None:
            if conversion.kind is ConvertTo.NEURALNETWORK:
                names = (PROBABILITIES,)  # an mlprogram's output gets this name by default
            arguments["classifier_config"] = ct.ClassifierConfig(
                list(conversion.labels), LABEL, predicted_probabilities_output=names[0]
            )
        try:
            with validation_per_pipeline():
                converted = ct.convert(
                    program,
                    source="pytorch",
                    convert_to=conversion.kind.value,
                    # Without a target, coremltools writes the oldest file format that supports the neuralnetwork.
                    minimum_deployment_target=conversion.target
                    and ct.target[conversion.target.value.replace("ios", "iOS")],
                    inputs=[_input(job, conversion)],
                    # Without a type, ios16 and later get float16 inputs and outputs.
                    outputs=[ct.TensorType(name=name, dtype=np.float32) for name in names],
                    skip_model_load=True,
                    **arguments,
                )
        except (OSError, MemoryError):
            raise
        except Exception as exc:  # coremltools raises many types for what it cannot convert
            target = f" for {conversion.target}" if conversion.target else ""
            reason = " ".join(str(exc).split()) or type(exc).__name__
            raise UnsupportedError(
                f"coremltools {ct.__version__} cannot convert this model to {conversion.kind}{target}: "
                f"{reason[:300].rstrip('.')}",
                hint=f"use a later --target, which may have the operation, or {OTHER_FORMATS}",
            ) from exc
    return converted, notes, in_float32


def _float16(program: torch.export.ExportedProgram, job: ExportJob) -> tuple[Any, tuple[str, ...], int]:
    """Return the compute precision, float16 except where that loses too much, notes, and the number of exceptions."""
    import coremltools as ct

    islands = float32_islands(program, [job.example_input.cpu()], job.repair)
    if islands is None:
        return ct.precision.FLOAT16, (), 0
    notes = []
    if large := islands.count - islands.for_accuracy:
        notes.append(
            f"{large} operations stay in float32 and off the Neural Engine: their values come near float16's maximum "
            "of 65504."
        )
    if islands.for_accuracy:
        notes.append(
            f"{islands.for_accuracy} operations stay in float32 and off the Neural Engine: with fewer, the file would "
            "miss its floor."
        )
    return ct.transform.FP16ComputePrecision(op_selector=islands), tuple(notes), islands.count


def _input(job: ExportJob, conversion: Conversion) -> Any:
    import coremltools as ct

    count, *rest = job.example_input.shape
    if conversion.image_input:
        grayscale = rest[0] == 1
        return ct.ImageType(
            name="input",
            shape=(1, *rest),
            scale=1 / 255,  # the graph's own mean and std are for pixels in [0, 1]
            color_layout=ct.colorlayout.GRAYSCALE if grayscale else ct.colorlayout.RGB,
        )
    shape: Any = (count, *rest)
    if conversion.enumerated:
        sizes = conversion.batch
        shape = ct.EnumeratedShapes([(size, *rest) for size in sizes], default=(sizes[0], *rest))
    elif conversion.batch:
        smallest, largest = conversion.batch
        shape = (ct.RangeDim(smallest, largest, default=1), *rest)
    return ct.TensorType(name="input", shape=shape, dtype=np.float32)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress coremltools' warnings: its import warns about every optional library that is missing or untested."""
    logger = logging.getLogger("coremltools")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # Some of torch's decompositions choose other kernels when gradients are enabled.
        with torch.no_grad():
            yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def validation_per_pipeline() -> Iterator[None]:
    """Let coremltools validate its program after each of three pipelines.

    coremltools 9.0 also does so after each of their 100 passes, which takes a fifth of a conversion.
    """
    from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager
    from coremltools.converters.mil.mil.program import Program

    apply, validate = PassPipelineManager.apply_pipeline, Program.validate

    def apply_and_validate(program: Any, pipeline: Any) -> None:
        Program.validate = lambda *_, **__: None
        try:
            apply(program, pipeline)
        finally:
            Program.validate = validate
        program.validate()

    PassPipelineManager.apply_pipeline = staticmethod(apply_and_validate)
    try:
        yield
    finally:
        PassPipelineManager.apply_pipeline = staticmethod(apply)
