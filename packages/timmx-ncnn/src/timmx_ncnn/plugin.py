"""The `ncnn` backend. Importing it is fast; `export` and `runner` do the work."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from timmx.plugin import Capabilities, Device, ExportBackend, Exported, ExportJob, Problem, RuntimeDevice

from timmx_ncnn.options import NcnnOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx.plugin import ExportRequest, Metadata, OpenSettings, Runner, Snippet


class NcnnBackend(ExportBackend):
    """Writes `.param` and `.bin`, layer by layer from the captured program."""

    contract = 1
    name = "ncnn"
    help = (
        "Export to ncnn (.param and .bin) for Raspberry Pi, Android and Vulkan GPUs. Floats only: ncnn's tools for "
        "int8 are not in its wheels."
    )
    suffixes = (".param",)
    companions = (".bin",)
    snippet_languages = ("python", "cpp", "kotlin")
    runtime = "ncnn"
    runtime_devices = (RuntimeDevice.CPU, RuntimeDevice.GPU)
    toolchain = ("ncnn",)
    options = NcnnOptions
    capabilities = Capabilities(
        dynamic_batch="ncnn's layers take one image at a time. Run the file once per image, or use timmx onnx",
        larger_batches="ncnn's layers take one image at a time. Run the file once per image, or use timmx onnx",
    )

    def check_environment(
        self, request: ExportRequest | None = None, options: NcnnOptions | None = None
    ) -> Sequence[Problem]:
        if importlib.util.find_spec("ncnn") is None:
            return (Problem("ncnn is not installed", "uv pip install ncnn"),)
        return ()

    def export(self, job: ExportJob, options: NcnnOptions) -> Exported:
        from timmx_ncnn.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        from timmx_ncnn.runner import NcnnRunner

        settings.require_device(Device.CPU, path)
        return NcnnRunner(path, settings)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_ncnn.param_file import read_metadata

        return read_metadata(path)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_ncnn.inspection import inspect

        return inspect(path)

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet:
        from timmx_ncnn.snippets import snippet

        return snippet(path, metadata, language)
