"""The `tensorrt` backend. Importing it is fast; `export` and `runner` do the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003 - Typer resolves the annotations
from typing import TYPE_CHECKING, Any

from timmx.plugin import (
    Capabilities,
    Device,
    ExportBackend,
    Exported,
    ExportJob,
    Metadata,
    Runner,
)
from timmx_onnx import OnnxBackend

from timmx_tensorrt.options import TensorRTOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.plugin import ExportRequest, OpenSettings, Problem


class TensorRTBackend(ExportBackend):
    """Writes engines of TensorRT 10 and 11, or the strongly typed ONNX that they are built from."""

    contract = 1
    name = "tensorrt"
    help = "Export to a TensorRT engine (.engine) for NVIDIA GPUs, or to the ONNX that it is built from."
    suffixes = (".engine", ".plan")
    runtime = "TensorRT, or ONNX Runtime"
    toolchain = (*OnnxBackend.toolchain, "tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    preload = OnnxBackend.preload
    repairs = True
    options = TensorRTOptions
    capabilities = Capabilities(
        dynamic_batch_from_one="an engine is tuned for --batch-size, which must be 2 or more with a dynamic batch "
        "size. --batch-min 1, the default, lets it take single images too",
        reproducible="an engine depends on timings that are measured while it is built.",
    )
    caveat = (
        "Typed ONNX is verified on CPUs, and parsed and built by NVIDIA's TensorRT for RTX 1.7. No engine has run on a "
        "GPU yet: the calls are checked against NVIDIA's bindings of TensorRT 10.16 and 11.4, and every engine is "
        "verified where it is built."
    )

    def output_suffix(self, options: TensorRTOptions) -> str:
        return ".onnx" if options.onnx_only else self.suffixes[0]

    def source_artifact(self, options: TensorRTOptions) -> Path | None:
        return options.from_onnx

    def extra_outputs(self, options: TensorRTOptions, output: Path) -> Sequence[Path]:
        triton = options.triton / output.stem if options.triton else None
        return [path for path in (options.keep_onnx, triton) if path is not None]

    def check_environment(
        self, request: ExportRequest | None = None, options: TensorRTOptions | None = None
    ) -> Sequence[Problem]:
        from timmx_tensorrt.validation import missing_requirements

        if options is None:  # --onnx-only works without them
            return [replace(problem, partial=True) for problem in missing_requirements()]
        return () if options.onnx_only else missing_requirements()

    def validate(self, request: ExportRequest, options: TensorRTOptions) -> None:
        from timmx_tensorrt.validation import validate

        validate(request, options)

    def export(self, job: ExportJob, options: TensorRTOptions) -> Exported:
        from timmx_tensorrt.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        if path.suffix == ".onnx":
            settings.require_device(Device.CPU, path)
            from timmx_tensorrt.profile import read_profile
            from timmx_tensorrt.typed_runner import TypedRunner

            content = self.read_metadata(path)
            profile = read_profile(path, Metadata.parse(path, content)) if content else None
            sizes = profile.sizes if profile else Runner.batch_sizes
            return TypedRunner(path, sizes, settings.threads)
        from timmx_tensorrt.runner import EngineRunner

        settings.require_device(Device.CUDA, path)
        return EngineRunner(path, trust=settings.trust)

    def open_exported(self, path: Path, options: TensorRTOptions, settings: OpenSettings) -> Runner:
        if options.onnx_only:
            return self.open(path, settings)
        from timmx_tensorrt.runner import NewEngineRunner

        return NewEngineRunner(path)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        if path.suffix == ".onnx":
            return OnnxBackend().read_metadata(path)
        from timmx_tensorrt.sidecar import check_plan, read

        sidecar = read(path)
        if sidecar.engine:  # otherwise the metadata may be of another engine
            check_plan(path, sidecar.engine)
        return sidecar.metadata

    def inspect(self, path: Path) -> dict[str, Any]:
        if path.suffix == ".onnx":
            return OnnxBackend().inspect(path)
        from timmx_tensorrt.sidecar import check_plan, read

        engine = read(path).engine
        check_plan(path, engine)
        return engine or {
            "unproven": "no .json file next to it describes it; only TensorRT can check whether it is an engine"
        }

    def files(self, path: Path) -> tuple[Path, ...]:
        if path.suffix == ".onnx":
            return OnnxBackend().files(path)
        from timmx_tensorrt.sidecar import sidecar_path

        sidecar = sidecar_path(path)
        return (*super().files(path), *([sidecar] if sidecar.is_file() else []))
