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
    """The arithmetic of an mlprogram; input and output are float32 in both."""

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
    """Where Core ML may compute."""

    ALL = "all"
    CPU = "cpu"
    CPU_GPU = "cpu-gpu"
    CPU_NE = "cpu-ne"


_WEIGHTS, _INPUT, _KIND = "Weights", "Input and output tensors", "Kind of Core ML model"


@dataclass(frozen=True, kw_only=True)
class CoreMLOptions:
    """Options of `timmx coreml` alone."""

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
            help="Oldest system that must run the file. Default: the oldest that the other options allow.",
            show_default=False,
            rich_help_panel=_KIND,
        ),
    ] = None
    compute_precision: Annotated[
        ComputePrecision | None,
        typer.Option(
            "--compute-precision",
            help="Arithmetic of an mlprogram; float16 by default, which the Neural Engine needs.",
            show_default=False,
            rich_help_panel=_KIND,
        ),
    ] = None
    quantize: Annotated[
        Quantize,
        typer.Option(
            "--quantize",
            help="Weights of an mlprogram: int8 scaled per channel, int4 per block (ios18), or an index into a "
            "palette of 2^8, 2^6 or 2^4 values (ios16; palettes per group of channels from ios18 on).",
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
            help="Largest batch of --dynamic-batch; 8 by default.",
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
            help="The only batch sizes of --dynamic-batch, the first the default one; so all of them can run on the "
            "Neural Engine.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    image_input: Annotated[
        bool,
        typer.Option(
            "--image-input",
            help="Take a picture (RGB or grayscale) instead of an array; needs --normalize and batch size 1.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    classifier: Annotated[
        bool,
        typer.Option(
            "--classifier",
            help="Give classLabel and classLabel_probs, as Vision and Xcode's preview want them; needs labels.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    compute_units: Annotated[
        ComputeUnits | None,
        typer.Option(
            "--compute-units",
            help="Where Core ML runs the file to verify it; macOS only. Default: all.",
            show_default=False,
            rich_help_panel="Verification",
        ),
    ] = None
