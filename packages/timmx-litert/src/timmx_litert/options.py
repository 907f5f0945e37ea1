"""The options of `timmx litert`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from timmx.plugin import CalibrationChoice, CalibrationData, CalibrationSamples, MaxDrop, RandomCalibration


class LiteRTMode(StrEnum):
    """How weights are stored and activations are computed."""

    FP32 = "fp32"
    FP16 = "fp16"
    DYNAMIC_INT8 = "dynamic-int8"
    WEIGHT_INT8 = "weight-int8"
    INT8 = "int8"
    INT16X8 = "int16x8"

    @property
    def quantized(self) -> bool:
        """Whether weights are stored in 8 bits."""
        return self not in (LiteRTMode.FP32, LiteRTMode.FP16)

    @property
    def calibrated(self) -> bool:
        """Whether activations have fixed ranges from calibration."""
        return self in (LiteRTMode.INT8, LiteRTMode.INT16X8)


class IoType(StrEnum):
    """The element type of input and output."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"


_ARITHMETIC, _INPUT = "Arithmetic", "Input and output tensors"


@dataclass(frozen=True, kw_only=True)
class LiteRTOptions:
    """The options that only `timmx litert` has."""

    mode: Annotated[
        LiteRTMode,
        typer.Option(
            "--mode",
            help="fp16: 16-bit weights, half the size. weight-int8: 8-bit weights, a quarter of the size, float "
            "arithmetic; recommended for MobileNetV3 and EfficientNet, which lose the most accuracy with "
            "dynamic-int8. dynamic-int8: same size, faster on transformers. int8, int16x8: integer arithmetic, "
            "requires calibration; norms, softmax and GELU stay in float. int16x8 is slow on CPUs.",
            rich_help_panel=_ARITHMETIC,
        ),
    ] = LiteRTMode.FP32
    per_channel: Annotated[
        bool | None,
        typer.Option(
            "--per-channel/--no-per-channel",
            help="Use one scale per output channel for 8-bit weights, or one per tensor. Default: per channel.",
            show_default=False,
            rich_help_panel=_ARITHMETIC,
        ),
    ] = None
    io: Annotated[
        IoType,
        typer.Option(
            "--io",
            help="Input and output type. uint8 with --normalize: the input is the bytes of an image (NHWC), the output "
            "float32. With --mode int8: int8 or uint8 for input and output.",
            rich_help_panel=_INPUT,
        ),
    ] = IoType.FLOAT32
    nhwc_input: Annotated[
        bool,
        typer.Option(
            "--nhwc-input",
            help="Use (N, H, W, C) input, as cameras and Android's task libraries provide it. The task libraries also "
            "require --normalize if mean and std differ between channels.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    calibration_data: CalibrationData = None
    calibration_samples: CalibrationSamples = None
    random_calibration: RandomCalibration = False
    calibration_method: CalibrationChoice = None
    max_drop: MaxDrop = None

    @property
    def takes_nhwc(self) -> bool:
        """Whether the input is (N, H, W, C): requested, or implied by uint8 images."""
        return self.nhwc_input or self.io is IoType.UINT8
