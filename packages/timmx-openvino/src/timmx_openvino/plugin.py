"""The `openvino` backend. Importing it is fast; `export` and `runner` do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import Device, ExportBackend, Exported, ExportJob, RuntimeDevice

from timmx_openvino.options import OpenVINOOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx.plugin import ExportRequest, Metadata, OpenSettings, Problem, Runner, Snippet


class OpenVINOBackend(ExportBackend):
    """Writes OpenVINO IR, `.xml` and `.bin`, with OpenVINO's PyTorch front end."""

    contract = 1
    name = "openvino"
    help = "Export to OpenVINO IR (.xml and .bin) for Intel CPUs, GPUs and NPUs."
    suffixes = (".xml",)
    companions = (".bin",)
    snippet_languages = ("python", "cpp", "js")
    runtime = "OpenVINO"
    runtime_devices = tuple(RuntimeDevice)
    toolchain = ("openvino", "nncf")
    options = OpenVINOOptions

    def check_environment(
        self, request: ExportRequest | None = None, options: OpenVINOOptions | None = None
    ) -> Sequence[Problem]:
        from timmx_openvino.validation import missing_libraries

        return missing_libraries(options)

    def validate(self, request: ExportRequest, options: OpenVINOOptions) -> None:
        from timmx_openvino.validation import validate

        validate(request, options)

    def export(self, job: ExportJob, options: OpenVINOOptions) -> Exported:
        from timmx_openvino.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        from timmx_openvino.runner import OpenVINORunner

        settings.require_device(Device.CPU, path)
        return OpenVINORunner(path, settings)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_openvino.ir import read_metadata

        return read_metadata(path)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_openvino.ir import inspect

        return inspect(path)

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet:
        from timmx_openvino.snippets import snippet

        return snippet(path, metadata, language)
