"""The options of `timmx onnx`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from timmx.plugin import CalibrationChoice, CalibrationData, CalibrationSamples, MaxDrop, RandomCalibration

ONE_FILE = 2**31 - 1 - 64 * 2**20
"""The most bytes of weights in one file: protobuf's limit without 64 MB for the graph."""


class OnnxMode(StrEnum):
    """The arithmetic of the graph and the type of its weights."""

    FP32 = "fp32"
    FP16 = "fp16"
    WEIGHT_INT8 = "weight-int8"
    WEIGHT_INT4 = "weight-int4"
    INT8 = "int8"


class IoType(StrEnum):
    """The element type of the input; outputs are float32."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """The options that only `timmx onnx` has."""

    opset: Annotated[
        int,
        typer.Option("--opset", min=18, max=24, help="ONNX operator set version."),
    ] = 20
    mode: Annotated[
        OnnxMode,
        typer.Option(
            "--mode",
            help="fp16 halves the file size; normalization layers, softmax and --normalize stay in float32. "
            "weight-int8 quarters it: weights are stored in 8 bits, and arithmetic stays in float32. "
            "weight-int4, for transformers in ONNX Runtime: linear layers in 4 bits, a fifth of the size. "
            "int8 computes in integers where that is accurate and faster; requires calibration.",
        ),
    ] = OnnxMode.FP32
    io: Annotated[
        IoType,
        typer.Option(
            "--io",
            help="Input type. uint8 with --normalize: the bytes of an image, (N, H, W, C). Outputs are float32.",
        ),
    ] = IoType.FLOAT32
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--no-external-data",
            help="Store the weights in a second file. Default: only above 2 GB, the limit of one file.",
            show_default=False,
        ),
    ] = None
    optimize: Annotated[
        bool,
        typer.Option(
            "--optimize/--no-optimize", help="Fold constants and fuse operators; results do not change."
        ),
    ] = True
    reduce_range: Annotated[
        bool,
        typer.Option(
            "--reduce-range",
            help="With --mode int8: use 7 of 8 bits of each weight, for x86 CPUs without VNNI, which saturate.",
        ),
    ] = False
    calibration_data: CalibrationData = None
    calibration_samples: CalibrationSamples = None
    random_calibration: RandomCalibration = False
    calibration_method: CalibrationChoice = None
    max_drop: MaxDrop = None
