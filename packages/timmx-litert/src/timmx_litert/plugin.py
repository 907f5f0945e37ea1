"""The `litert` backend. Importing it is fast; `export` and `runner` do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import (
    Capabilities,
    Device,
    ExportBackend,
    Exported,
    ExportJob,
    WeightsLimit,
)

from timmx_litert.options import LiteRTOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx.plugin import ExportRequest, Metadata, OpenSettings, Problem, Runner, Snippet


class LiteRTBackend(ExportBackend):
    """Writes `.tflite` files with litert-torch and its quantizer."""

    contract = 1
    name = "litert"
    help = "Export to LiteRT (.tflite) for Android, iOS, embedded Linux and the browser."
    suffixes = (".tflite",)
    snippet_languages = ("python", "kotlin")
    runtime = "the LiteRT runtime"
    toolchain = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert")
    preload = ("litert_torch", "timmx_litert.export", "timmx_litert.runner")
    options = LiteRTOptions
    capabilities = Capabilities(
        dynamic_batch="litert-torch cannot lower a graph with a dynamic batch size, and "
        "resizing the input at run time gives correct outputs only for some models. Use --batch-size N for a fixed "
        "batch size, or timmx onnx or timmx torch-export for a dynamic one"
    )

    def weights_limit(self, options: LiteRTOptions) -> WeightsLimit:
        from timmx_litert.model_file import GRAPH_SIZE, LIMIT, LIMIT_HINT

        # the quantizer starts from the float file
        return WeightsLimit(LIMIT - GRAPH_SIZE, LIMIT_HINT)

    def check_environment(
        self, request: ExportRequest | None = None, options: LiteRTOptions | None = None
    ) -> Sequence[Problem]:
        from timmx_litert.validation import missing_libraries

        return missing_libraries()

    def validate(self, request: ExportRequest, options: LiteRTOptions) -> None:
        from timmx_litert.validation import validate

        validate(request, options)

    def export(self, job: ExportJob, options: LiteRTOptions) -> Exported:
        from timmx_litert.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        from timmx_litert.runner import LiteRTRunner

        settings.require_device(Device.CPU, path)
        return LiteRTRunner(path, settings.threads)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_litert.model_file import read_metadata

        return read_metadata(path)

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet:
        from timmx_litert.snippets import snippet

        return snippet(path, metadata, language)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_litert.inspection import inspect

        return inspect(path)
