"""The `onnx` backend. Importing it is fast; `export` and `runner` do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import Device, ExportBackend, Exported, ExportJob, WeightsLimit

from timmx_onnx.options import ONE_FILE, OnnxMode, OnnxOptions

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import ExportRequest, Metadata, OpenSettings, Runner, Snippet


class OnnxBackend(ExportBackend):
    """Writes `.onnx` files with PyTorch's exporter."""

    contract = 1
    name = "onnx"
    help = "Export to ONNX for ONNX Runtime, browsers, OpenVINO and TensorRT."
    suffixes = (".onnx",)
    snippet_languages = ("python", "kotlin", "js")
    runtime = "ONNX Runtime"
    toolchain = ("onnx", "onnxscript", "onnx-ir", "onnxruntime")
    preload = (
        "onnxscript",
        "torch.onnx._internal.exporter._core",
        "timmx_onnx.export",
        "timmx_onnx.translations",
    )
    # not what imports onnxruntime, which starts a thread when it is imported (1.32)
    repairs = True
    options = OnnxOptions

    def weights_limit(self, options: OnnxOptions) -> WeightsLimit | None:
        if options.external_data is not False:
            return None
        smaller = {
            OnnxMode.FP32: 1,
            OnnxMode.FP16: 2,
            OnnxMode.WEIGHT_INT8: 4,
            OnnxMode.INT8: 4,
            OnnxMode.WEIGHT_INT4: 6,
        }[options.mode]
        return WeightsLimit(ONE_FILE * smaller, "leave --no-external-data out")

    def validate(self, request: ExportRequest, options: OnnxOptions) -> None:
        from timmx_onnx.validation import validate

        validate(request, options)

    def export(self, job: ExportJob, options: OnnxOptions) -> Exported:
        from timmx_onnx.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        from timmx_onnx.runner import OnnxRunner

        settings.require_device(Device.CPU, path)
        return OnnxRunner(path, settings.threads)

    def open_exported(self, path: Path, options: OnnxOptions, settings: OpenSettings) -> Runner:
        from timmx_onnx.runner import OnnxRunner

        # spinning threads take two thirds more processor time for the few inputs of a verification
        return OnnxRunner(path, settings.threads, spins=False)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_onnx.proto import read_metadata

        return read_metadata(path)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_onnx.proto import inspect

        return inspect(path)

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet:
        from timmx_onnx.snippets import snippet

        return snippet(path, metadata, language)

    def files(self, path: Path) -> tuple[Path, ...]:
        from timmx_onnx.proto import external_files

        return (path, *external_files(path))
