"""The options of `timmx executorch`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer
from timmx.plugin import CalibrationChoice, CalibrationData, CalibrationSamples, MaxDrop, RandomCalibration


class Mode(StrEnum):
    """How weights are stored and activations are computed."""

    FP32 = "fp32"
    FP16 = "fp16"
    WEIGHT_INT8 = "weight-int8"
    DYNAMIC_INT8 = "dynamic-int8"
    INT8 = "int8"

    @property
    def quantized(self) -> bool:
        """Whether weights are stored in 8 bits."""
        return self in (Mode.WEIGHT_INT8, Mode.DYNAMIC_INT8, Mode.INT8)


class Delegate(StrEnum):
    """What computes the operations that it supports; ExecuTorch's own kernels compute the others."""

    XNNPACK = "xnnpack"
    PORTABLE = "portable"
    COREML = "coreml"


@dataclass(frozen=True, kw_only=True)
class ExecuTorchOptions:
    """The options that only `timmx executorch` has."""

    delegate: Annotated[
        Delegate,
        typer.Option(
            "--delegate",
            help="xnnpack: CPUs of phones and computers. portable: ExecuTorch's own kernels, for any CPU, slow. "
            "coreml: Apple devices.",
        ),
    ] = Delegate.XNNPACK
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            help="fp16: weights and arithmetic in 16 bits. weight-int8: 8-bit weights, float arithmetic. "
            "dynamic-int8: 8-bit weights, ranges of activations computed in each run. int8: integer arithmetic, "
            "requires calibration; layers that lose too much accuracy stay in float.",
        ),
    ] = Mode.FP32
    batch_max: Annotated[
        int | None,
        typer.Option(
            "--batch-max",
            min=2,
            max=1024,
            help="Largest batch size with --dynamic-batch; memory is reserved for it. Default: 8.",
            show_default=False,
        ),
    ] = None
    external_weights: Annotated[
        bool,
        typer.Option("--external-weights", help="Store the weights in a second file, NAME.ptd."),
    ] = False
    calibration_data: CalibrationData = None
    calibration_samples: CalibrationSamples = None
    random_calibration: RandomCalibration = False
    calibration_method: CalibrationChoice = None
    max_drop: MaxDrop = None
