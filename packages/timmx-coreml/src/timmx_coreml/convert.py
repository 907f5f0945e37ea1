"""The capture in coremltools' hands: one call of `ct.convert`, and what has to stand around it."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timmx.plugin import UnsupportedError

from timmx_coreml.errors import OTHER_FORMATS
from timmx_coreml.float32_islands import float32_islands
from timmx_coreml.lower import lower
from timmx_coreml.options import ComputePrecision, ConvertTo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.plugin import ExportJob

    from timmx_coreml.targets import Target


LABEL, PROBABILITIES = "classLabel", "classLabel_probs"
"""A classifier's outputs, as coremltools names them."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What coremltools is asked for.

    Attributes:
        target: the oldest system, an iOS one; None for the oldest that can hold a neuralnetwork.
        batch: open batch sizes: the least and the greatest, or all where `enumerated`; empty where it is fixed.
        labels: class names that make it a classifier.
    """

    kind: ConvertTo
    target: Target | None
    precision: ComputePrecision
    batch: tuple[int, ...] = ()
    enumerated: bool = False
    image_input: bool = False
    labels: tuple[str, ...] | None = None


def convert(job: ExportJob, conversion: Conversion) -> tuple[Any, tuple[str, ...]]:
    """The captured model as a `coremltools.models.MLModel` that was not loaded, and notes for the user.

    Raises:
        UnsupportedError: coremltools cannot convert it.
    """
    program = job.capture()
    job.progress("Converting to Core ML")
    if job.request.device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, "cpu")  # coremltools reads the weights as numpy arrays
    notes: tuple[str, ...] = ()
    with quiet():
        import coremltools as ct

        program = lower(program)
        arguments: dict[str, Any] = {}
        names = job.output_names
        if conversion.kind is ConvertTo.MLPROGRAM:
            arguments["compute_precision"] = ct.precision.FLOAT32
            if conversion.precision is ComputePrecision.FLOAT16:
                arguments["compute_precision"], notes = _half(program, job)
        if conversion.labels is not None:
            if conversion.kind is ConvertTo.NEURALNETWORK:
                names = (PROBABILITIES,)  # coremltools names an mlprogram's so by itself
            arguments["classifier_config"] = ct.ClassifierConfig(
                list(conversion.labels), LABEL, predicted_probabilities_output=names[0]
            )
        try:
            converted = ct.convert(
                program,
                source="pytorch",
                convert_to=conversion.kind.value,
                # Without one, coremltools writes the oldest version of the file format that holds a neuralnetwork.
                minimum_deployment_target=conversion.target
                and ct.target[conversion.target.value.replace("ios", "iOS")],
                inputs=[_input(job, conversion)],
                # Both edges are float32 for every target: without a type, ios16 and later get float16 ones.
                outputs=[ct.TensorType(name=name, dtype=np.float32) for name in names],
                skip_model_load=True,
                **arguments,
            )
        except (OSError, MemoryError):
            raise
        except Exception as exc:  # coremltools raises all kinds of things for what it cannot translate
            wanted = f" for {conversion.target}" if conversion.target else ""
            reason = " ".join(str(exc).split()) or type(exc).__name__
            raise UnsupportedError(
                f"coremltools {ct.__version__} cannot convert this model to {conversion.kind}{wanted}: "
                f"{reason[:300].rstrip('.')}",
                hint=f"use a later --target, which may have the operation, or {OTHER_FORMATS}",
            ) from exc
    return converted, notes


def _half(program: torch.export.ExportedProgram, job: ExportJob) -> tuple[Any, tuple[str, ...]]:
    """float16 for every operation whose numbers it holds."""
    import coremltools as ct

    islands = float32_islands(program, [job.example_input.cpu()])
    if islands is None:
        return ct.precision.FLOAT16, ()
    return ct.transform.FP16ComputePrecision(op_selector=islands), (
        f"{islands.count} operations stay in float32, so not on the Neural Engine: their numbers come near float16's "
        "limit of 65504.",
    )


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
        least, greatest = conversion.batch
        shape = (ct.RangeDim(least, greatest, default=1), *rest)
    return ct.TensorType(name="input", shape=shape, dtype=np.float32)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep coremltools' warnings back: its import tells of every optional library that is missing or untested."""
    logger = logging.getLogger("coremltools")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # Gradients are never wanted here, and some of torch's decompositions choose other kernels with them.
        with torch.no_grad():
            yield
    finally:
        logger.setLevel(before)
