"""The options of `timmx tensorrt`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from timmx.plugin import CalibrationChoice, CalibrationData, CalibrationSamples, RandomCalibration


class TensorRTMode(StrEnum):
    """The arithmetic, which is in the types of the graph; input and outputs are float32 in each."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"

    @property
    def calibrated(self) -> bool:
        """Whether activations have fixed ranges, which calibration finds."""
        return self in (TensorRTMode.INT8, TensorRTMode.FP8)


class HardwareCompat(StrEnum):
    """Which other GPUs may run the engine."""

    NONE = "none"
    AMPERE_PLUS = "ampere-plus"
    SAME_CC = "same-cc"


_GRAPH, _BATCH, _BUILD, _FURTHER = "Graph", "Open batch", "Engine", "Further files"


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """Options of `timmx tensorrt` alone."""

    mode: Annotated[
        TensorRTMode | None,
        typer.Option(
            "--mode",
            help="fp16, bf16: norms, softmax and --normalize stay float32. bf16 for models whose numbers leave "
            "float16's range. int8: Q/DQ by calibration, float16 for the rest; often no faster than fp16 on "
            "transformers. fp8: likewise in float8, for GPUs of compute capability 8.9 and later. Default: fp32.",
            show_default=False,
            rich_help_panel=_GRAPH,
        ),
    ] = None
    opset: Annotated[
        int | None,
        typer.Option(
            "--opset",
            min=18,
            max=22,
            help="ONNX operator set of the graph. Default: 20, and 22 for bf16.",
            show_default=False,
            rich_help_panel=_GRAPH,
        ),
    ] = None
    calibration_data: CalibrationData = None
    calibration_samples: CalibrationSamples = None
    random_calibration: RandomCalibration = False
    calibration_method: CalibrationChoice = None
    batch_min: Annotated[
        int | None,
        typer.Option(
            "--batch-min",
            min=1,
            help="Smallest batch that the engine takes; default 1. --batch-size is what it is tuned for.",
            show_default=False,
            rich_help_panel=_BATCH,
        ),
    ] = None
    batch_max: Annotated[
        int | None,
        typer.Option(
            "--batch-max",
            min=1,
            help="Largest batch that the engine takes; default: --batch-size. Memory follows it.",
            show_default=False,
            rich_help_panel=_BATCH,
        ),
    ] = None
    onnx_only: Annotated[
        bool,
        typer.Option(
            "--onnx-only",
            help="Stop at the typed ONNX, verified on this machine. Needs no GPU and no TensorRT.",
            rich_help_panel=_FURTHER,
        ),
    ] = False
    from_onnx: Annotated[
        Path | None,
        typer.Option(
            "--from-onnx",
            metavar="FILE",
            help="Build from what --onnx-only wrote, in MODEL's place.",
            rich_help_panel=_FURTHER,
        ),
    ] = None
    keep_onnx: Annotated[
        Path | None,
        typer.Option(
            "--keep-onnx",
            metavar="FILE",
            help="Also write the typed ONNX, from which any GPU's engine can be built.",
            rich_help_panel=_FURTHER,
        ),
    ] = None
    triton: Annotated[
        Path | None,
        typer.Option(
            "--triton",
            metavar="DIR",
            help="Also write the model, with its config.pbtxt and labels, into this repository of Triton's.",
            rich_help_panel=_FURTHER,
        ),
    ] = None
    workspace: Annotated[
        float | None,
        typer.Option(
            "--workspace",
            metavar="GIB",
            help="Most scratch memory that a layer may use, in GiB. Default: TensorRT's, all there is.",
            show_default=False,
            rich_help_panel=_BUILD,
        ),
    ] = None
    opt_level: Annotated[
        int | None,
        typer.Option(
            "--opt-level",
            min=0,
            max=5,
            help="How long TensorRT searches: 0 to 5. Default: TensorRT's, 3.",
            show_default=False,
            rich_help_panel=_BUILD,
        ),
    ] = None
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            "--timing-cache",
            metavar="FILE",
            help="Timings kept between builds, which makes the next one faster. Several builds may share the file.",
            rich_help_panel=_BUILD,
        ),
    ] = None
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Let later TensorRT versions run the engine. It then carries code, so run only your own.",
            rich_help_panel=_BUILD,
        ),
    ] = False
    hardware_compat: Annotated[
        HardwareCompat,
        typer.Option(
            "--hardware-compat",
            help="Let other GPUs run the engine: of Ampere and later, or of the same compute capability.",
            rich_help_panel=_BUILD,
        ),
    ] = HardwareCompat.NONE

    @property
    def chosen_mode(self) -> TensorRTMode:
        """The one to export in; fp32 unless another was given."""
        return self.mode or TensorRTMode.FP32

    @property
    def chosen_opset(self) -> int:
        """The one to export to. From 21 on ONNX Runtime 1.32 refuses int8 graphs of transformers (its issue 25526)."""
        return self.opset or (22 if self.mode is TensorRTMode.BF16 else 20)
