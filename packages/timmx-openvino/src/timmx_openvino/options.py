"""The options of `timmx openvino`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from timmx.plugin import CalibrationChoice, CalibrationData, CalibrationSamples, MaxDrop, RandomCalibration


class OpenVINOMode(StrEnum):
    """The arithmetic of the graph and the type of its weights."""

    FP32 = "fp32"
    FP16 = "fp16"
    WEIGHT_INT8 = "weight-int8"
    WEIGHT_INT4 = "weight-int4"
    INT8 = "int8"

    @property
    def needs_nncf(self) -> bool:
        """Whether NNCF writes the weights or the integer operators."""
        return self not in (OpenVINOMode.FP32, OpenVINOMode.FP16)


class IoType(StrEnum):
    """The element type of the input; outputs are float32."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


@dataclass(frozen=True, kw_only=True)
class OpenVINOOptions:
    """The options that only `timmx openvino` has."""

    mode: Annotated[
        OpenVINOMode,
        typer.Option(
            "--mode",
            help="fp16 halves the file size: weights are stored in 16 bits, and the device chooses the arithmetic. "
            "weight-int8 quarters it: weights are stored in 8 bits. weight-int4, for transformers: linear layers in "
            "4 bits. int8 computes in integers where that is accurate; requires calibration.",
        ),
    ] = OpenVINOMode.FP32
    io: Annotated[
        IoType,
        typer.Option(
            "--io",
            help="Input type. uint8 with --normalize: the bytes of an image, (N, H, W, C). Outputs are float32.",
        ),
    ] = IoType.FLOAT32
    calibration_data: CalibrationData = None
    calibration_samples: CalibrationSamples = None
    random_calibration: RandomCalibration = False
    calibration_method: CalibrationChoice = None
    max_drop: MaxDrop = None
