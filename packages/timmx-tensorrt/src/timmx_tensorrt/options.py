"""The options of `timmx tensorrt`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from timmx.plugin import CalibrationChoice, CalibrationData, CalibrationSamples, MaxDrop, RandomCalibration


class TensorRTMode(StrEnum):
    """The arithmetic, determined by the types in the graph; input and outputs are float32 in each mode."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"

    @property
    def calibrated(self) -> bool:
        """Whether activations have fixed ranges from calibration."""
        return self in (TensorRTMode.INT8, TensorRTMode.FP8)


class HardwareCompat(StrEnum):
    """The other GPUs that may run the engine."""

    NONE = "none"
    AMPERE_PLUS = "ampere-plus"
    SAME_CC = "same-cc"


_GRAPH, _BATCH, _BUILD, _FURTHER = "Graph", "Dynamic batch size", "Engine", "Additional files"


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions:
    """The options that only `timmx tensorrt` has."""

    mode: Annotated[
        TensorRTMode | None,
        typer.Option(
            "--mode",
            help="fp16, bf16: norms, softmax and --normalize stay in float32; bf16 is for models whose values exceed "
            "the range of float16. int8: Q/DQ from calibration, float16 elsewhere; often no faster than fp16 on "
            "transformers. fp8: the same in float8, for compute capability 8.9 and later. Default: fp32.",
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
            help="ONNX operator set version of the graph. Default: 20; 22 for bf16.",
            show_default=False,
            rich_help_panel=_GRAPH,
        ),
    ] = None
    calibration_data: CalibrationData = None
    calibration_samples: CalibrationSamples = None
    random_calibration: RandomCalibration = False
    calibration_method: CalibrationChoice = None
    max_drop: MaxDrop = None
    batch_min: Annotated[
        int | None,
        typer.Option(
            "--batch-min",
            min=1,
            help="Smallest batch size of the engine; it is tuned for --batch-size. Default: 1.",
            show_default=False,
            rich_help_panel=_BATCH,
        ),
    ] = None
    batch_max: Annotated[
        int | None,
        typer.Option(
            "--batch-max",
            min=1,
            help="Largest batch size of the engine; determines its memory use. Default: --batch-size.",
            show_default=False,
            rich_help_panel=_BATCH,
        ),
    ] = None
    onnx_only: Annotated[
        bool,
        typer.Option(
            "--onnx-only",
            help="Write only the typed ONNX, verified on this machine; requires no GPU and no TensorRT.",
            rich_help_panel=_FURTHER,
        ),
    ] = False
    from_onnx: Annotated[
        Path | None,
        typer.Option(
            "--from-onnx",
            metavar="FILE",
            help="Build from a file written with --onnx-only or --keep-onnx, instead of MODEL.",
            rich_help_panel=_FURTHER,
        ),
    ] = None
    keep_onnx: Annotated[
        Path | None,
        typer.Option(
            "--keep-onnx",
            metavar="FILE",
            help="Also write the typed ONNX, to build engines on other GPUs with --from-onnx.",
            rich_help_panel=_FURTHER,
        ),
    ] = None
    triton: Annotated[
        Path | None,
        typer.Option(
            "--triton",
            metavar="DIR",
            help="Also write the model with config.pbtxt and labels into this Triton model repository.",
            rich_help_panel=_FURTHER,
        ),
    ] = None
    workspace: Annotated[
        float | None,
        typer.Option(
            "--workspace",
            metavar="GIB",
            help="Maximum workspace memory per layer, in GiB. Default: no limit, as in TensorRT.",
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
            help="Builder optimization level, 0 to 5. Default: 3, as in TensorRT.",
            show_default=False,
            rich_help_panel=_BUILD,
        ),
    ] = None
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            "--timing-cache",
            metavar="FILE",
            help="Timing cache file; makes later builds faster, and can be shared by several builds.",
            rich_help_panel=_BUILD,
        ),
    ] = None
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Allow later TensorRT versions to run the engine. It then contains code: run only engines that "
            "you trust.",
            rich_help_panel=_BUILD,
        ),
    ] = False
    hardware_compat: Annotated[
        HardwareCompat,
        typer.Option(
            "--hardware-compat",
            help="Allow other GPUs to run the engine: Ampere and later, or the same compute capability.",
            rich_help_panel=_BUILD,
        ),
    ] = HardwareCompat.NONE

    @property
    def chosen_mode(self) -> TensorRTMode:
        """The mode of the export; fp32 by default."""
        return self.mode or TensorRTMode.FP32

    @property
    def chosen_opset(self) -> int:
        """The opset of the export. From 21 on, ONNX Runtime 1.32 rejects int8 graphs of transformers (issue 25526)."""
        return self.opset or (22 if self.mode is TensorRTMode.BF16 else 20)
