"""The options of `timmx onnx`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer


class OnnxMode(StrEnum):
    """The arithmetic of the graph; input and output are float32 in each."""

    FP32 = "fp32"
    FP16 = "fp16"


@dataclass(frozen=True)
class OnnxOptions:
    """Options of `timmx onnx` alone."""

    opset: Annotated[
        int,
        typer.Option("--opset", min=18, max=24, help="ONNX operator set."),
    ] = 20
    mode: Annotated[
        OnnxMode,
        typer.Option(
            "--mode",
            help="fp16 halves the file and keeps normalisation layers, softmax and --normalize in float32.",
        ),
    ] = OnnxMode.FP32
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--no-external-data",
            help="Put the weights into a second file beside it. Default: only above 2 GB, ONNX's limit.",
            show_default=False,
        ),
    ] = None
    optimize: Annotated[
        bool,
        typer.Option("--optimize/--no-optimize", help="Fold and fuse the graph; the numbers stay."),
    ] = True
