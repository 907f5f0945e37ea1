"""The options of `timmx coreml`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from timmx.plugin import Ints

from timmx_coreml.targets import Target


class ConvertTo(StrEnum):
    """The two kinds of Core ML model."""

    MLPROGRAM = "mlprogram"
    NEURALNETWORK = "neuralnetwork"


class ComputePrecision(StrEnum):
    """The arithmetic of an mlprogram; inputs and outputs are float32 with both."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Quantize(StrEnum):
    """How the weights of an mlprogram are stored."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"
    PALETTE8 = "palette8"
    PALETTE6 = "palette6"
    PALETTE4 = "palette4"


class ComputeUnits(StrEnum):
    """The processors that Core ML may use."""

    ALL = "all"
    CPU = "cpu"
    CPU_GPU = "cpu-gpu"
    CPU_NE = "cpu-ne"


_WEIGHTS, _INPUT, _KIND = "Weights", "Input and output tensors", "Core ML model type"


@dataclass(frozen=True, kw_only=True)
class CoreMLOptions:
    """The options specific to `timmx coreml`."""

    convert_to: Annotated[
        ConvertTo,
        typer.Option(
            "--convert-to",
            help="mlprogram writes .mlpackage; neuralnetwork writes .mlmodel, for systems before iOS 15.",
            rich_help_panel=_KIND,
        ),
    ] = ConvertTo.MLPROGRAM
    target: Annotated[
        Target | None,
        typer.Option(
            "--target",
            help="Minimum deployment target. Default: the oldest that the other options allow.",
            show_default=False,
            rich_help_panel=_KIND,
        ),
    ] = None
    compute_precision: Annotated[
        ComputePrecision | None,
        typer.Option(
            "--compute-precision",
            help="Arithmetic of an mlprogram. Default: float16, which the Neural Engine requires.",
            show_default=False,
            rich_help_panel=_KIND,
        ),
    ] = None
    quantize: Annotated[
        Quantize,
        typer.Option(
            "--quantize",
            help="Weight compression of an mlprogram: int8 per channel, int4 per block (ios18), or palettization with "
            "2^8, 2^6 or 2^4 values (ios16; grouped channels from ios18).",
            rich_help_panel=_WEIGHTS,
        ),
    ] = Quantize.NONE
    half: Annotated[
        bool,
        typer.Option(
            "--half", help="Store the weights of a neuralnetwork in float16.", rich_help_panel=_WEIGHTS
        ),
    ] = False
    batch_upper_bound: Annotated[
        int | None,
        typer.Option(
            "--batch-upper-bound",
            min=2,
            help="Largest batch size with --dynamic-batch. Default: 8.",
            show_default=False,
            rich_help_panel=_INPUT,
        ),
    ] = None
    batch_sizes: Annotated[
        Ints | None,
        typer.Option(
            "--batch-sizes",
            parser=Ints.parse,
            metavar="N,M,...",
            help="Enumerated batch sizes for --dynamic-batch, the default first; all can run on the Neural Engine.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    image_input: Annotated[
        bool,
        typer.Option(
            "--image-input",
            help="Use an image (RGB or grayscale) as input instead of an array; requires --normalize and batch size 1.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    classifier: Annotated[
        bool,
        typer.Option(
            "--classifier",
            help="Output classLabel and classLabel_probs for Vision and Xcode's preview; requires labels.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    compute_units: Annotated[
        ComputeUnits | None,
        typer.Option(
            "--compute-units",
            help="Compute units for verification; macOS only. Default: all.",
            show_default=False,
            rich_help_panel="Verification",
        ),
    ] = None
