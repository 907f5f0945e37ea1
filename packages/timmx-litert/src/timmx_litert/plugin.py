"""The `litert` backend: what it is and which options it has. Light; the work is in `export` and `runner`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from timmx.contract import Capabilities, ExportBackend, Exported, ExportJob
from timmx.options import (  # noqa: TC002 - Typer's
    CalibrationChoice,
    CalibrationData,
    CalibrationSamples,
    RandomCalibration,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from timmx.contract import Problem, Runner, Snippet
    from timmx.options import ExportRequest


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
        """Whether activations have fixed ranges, which calibration finds."""
        return self in (LiteRTMode.INT8, LiteRTMode.INT16X8)


class IoType(StrEnum):
    """The element type at the file's edge."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"


_ARITHMETIC, _INPUT = "Arithmetic", "Input and output tensors"


@dataclass(frozen=True)
class LiteRTOptions:
    """Options of `timmx litert` alone."""

    mode: Annotated[
        LiteRTMode,
        typer.Option(
            "--mode",
            help="fp16: weights in 16 bits, half the size. weight-int8: weights in 8 bits, a quarter of the size, "
            "arithmetic in float; the one to take for MobileNetV3 and EfficientNet, which integers with ranges found "
            "while running cost most. dynamic-int8: as small, and faster on transformers. int8, int16x8: integer "
            "arithmetic, by calibration; norms, softmax and GELU stay float. int16x8 is slow on CPUs.",
            rich_help_panel=_ARITHMETIC,
        ),
    ] = LiteRTMode.FP32
    per_channel: Annotated[
        bool | None,
        typer.Option(
            "--per-channel/--no-per-channel",
            help="8-bit weights have one scale an output channel, or one in all. Default: one a channel.",
            show_default=False,
            rich_help_panel=_ARITHMETIC,
        ),
    ] = None
    io: Annotated[
        IoType,
        typer.Option(
            "--io",
            help="Type of input and output. uint8 with --normalize makes an image-ready file: the bytes of a picture "
            "go in as they are (NHWC). int8, and uint8 for both edges, belong to --mode int8.",
            rich_help_panel=_INPUT,
        ),
    ] = IoType.FLOAT32
    nhwc_input: Annotated[
        bool,
        typer.Option(
            "--nhwc-input",
            help="Take (N, H, W, C), as cameras and Android's task libraries have it. These need --normalize too, "
            "where mean and std differ between channels.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    calibration_data: CalibrationData = None
    calibration_samples: CalibrationSamples = None
    random_calibration: RandomCalibration = False
    calibration_method: CalibrationChoice = None

    @property
    def takes_nhwc(self) -> bool:
        """Whether the input is (N, H, W, C): asked for, or implied by bytes of a picture."""
        return self.nhwc_input or self.io is IoType.UINT8


class LiteRTBackend(ExportBackend):
    """Writes `.tflite` files with litert-torch and its quantizer."""

    contract = 1
    name = "litert"
    help = "Export to LiteRT (.tflite) for Android, iOS, embedded Linux and the browser."
    suffixes = (".tflite",)
    snippet_languages = ("python", "kotlin")
    options = LiteRTOptions
    capabilities = Capabilities(
        dynamic_batch="litert-torch cannot lower a graph with a dynamic batch size, and files resized at run time are "
        "correct only for some models. Use --batch-size N for a fixed batch size, or timmx onnx or timmx torch-export, "
        "which have --dynamic-batch"
    )

    def check_environment(
        self, request: ExportRequest | None = None, options: LiteRTOptions | None = None
    ) -> Sequence[Problem]:
        from timmx_litert.validation import missing

        return missing()

    def validate(self, request: ExportRequest, options: LiteRTOptions) -> None:
        from timmx_litert.validation import validate

        validate(request, options)

    def export(self, job: ExportJob, options: LiteRTOptions) -> Exported:
        from timmx_litert.export import export

        return export(job, options)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """As the contract has it; `threads` for XNNPACK, all that this process may use by default."""
        from timmx_litert.runner import LiteRTRunner

        return LiteRTRunner(path, threads)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_litert.model_file import read_metadata

        return read_metadata(path)

    def snippet(self, path: Path, metadata: Mapping[str, Any], language: str) -> Snippet:
        from timmx_litert.snippets import snippet

        return snippet(path, metadata, language)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_litert.inspection import inspect

        return inspect(path)
