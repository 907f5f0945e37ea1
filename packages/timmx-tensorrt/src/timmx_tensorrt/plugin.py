"""The `tensorrt` backend: what it is and which options it has. Light; the work is in `export` and `runner`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - Typer's
from typing import TYPE_CHECKING, Annotated, Any

import typer
from timmx.contract import Capabilities, ExportBackend, Exported, ExportJob
from timmx.options import (  # noqa: TC002 - Typer's
    CalibrationChoice,
    CalibrationData,
    CalibrationSamples,
    RandomCalibration,
)
from timmx_onnx.plugin import OnnxBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.contract import Problem, Runner
    from timmx.options import ExportRequest


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


@dataclass(frozen=True)
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


class TensorRTBackend(ExportBackend):
    """Writes engines of TensorRT 10 and 11, or the strongly typed ONNX that they are built from."""

    contract = 1
    name = "tensorrt"
    help = "Export to a TensorRT engine (.engine) for NVIDIA GPUs, or to the ONNX that it is built from."
    suffixes = (".engine", ".plan")
    options = TensorRTOptions
    capabilities = Capabilities(
        dynamic_batch_from_one="an engine is tuned for --batch-size, which must be 2 or more with a dynamic batch "
        "size. --batch-min 1, the default, lets it take single images too",
        reproducible="an engine depends on timings that are measured while it is built.",
    )
    caveat = (
        "Its typed ONNX is proven on CPUs. Engines have not been built on real hardware yet: the calls are checked "
        "against NVIDIA's bindings of TensorRT 10.16 and 11.4, and every engine is verified where it is built."
    )

    def output_suffix(self, options: TensorRTOptions) -> str:
        return ".onnx" if options.onnx_only else self.suffixes[0]

    def prepared(self, options: TensorRTOptions) -> Path | None:
        return options.from_onnx

    def check_environment(
        self, request: ExportRequest | None = None, options: TensorRTOptions | None = None
    ) -> Sequence[Problem]:
        from timmx_tensorrt.validation import missing

        if options is None:
            return [replace(problem, partial=True) for problem in missing()]  # --onnx-only works without
        return () if options.onnx_only else missing()

    def validate(self, request: ExportRequest, options: TensorRTOptions) -> None:
        from timmx_tensorrt.validation import validate

        validate(request, options)

    def export(self, job: ExportJob, options: TensorRTOptions) -> Exported:
        from timmx_tensorrt.export import export

        return export(job, options)

    def open(self, path: Path) -> Runner:
        if path.suffix == ".onnx":
            from timmx_tensorrt.profile import stated_profile
            from timmx_tensorrt.typed_runner import TypedRunner

            profile = stated_profile(path, self.read_metadata(path))
            return TypedRunner(path, profile.sizes) if profile else TypedRunner(path)
        from timmx_tensorrt.runner import EngineRunner

        return EngineRunner(path)

    def open_exported(self, path: Path, options: TensorRTOptions) -> Runner:
        if options.onnx_only:
            return self.open(path)
        from timmx_tensorrt.runner import JudgedRunner

        return JudgedRunner(path)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        if path.suffix == ".onnx":
            return OnnxBackend().read_metadata(path)
        from timmx_tensorrt.sidecar import read

        return read(path).metadata

    def inspect(self, path: Path) -> dict[str, Any]:
        if path.suffix == ".onnx":
            return OnnxBackend().inspect(path)
        from timmx_tensorrt.sidecar import check_plan, read

        built = read(path).engine
        check_plan(path, built)
        return built or {
            "unproven": "nothing lies beside it that tells what it is; only TensorRT can tell whether it is an engine"
        }

    def files(self, path: Path) -> tuple[Path, ...]:
        if path.suffix == ".onnx":
            return OnnxBackend().files(path)
        from timmx_tensorrt.sidecar import beside

        sidecar = beside(path)
        return (*super().files(path), *([sidecar] if sidecar.is_file() else []))
