"""The `coreml` backend. Cheap to import: the work is in `export` and `runner`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import Device, ExportBackend, Exported, ExportJob, WeightsLimit

from timmx_coreml.options import ComputeUnits, ConvertTo, CoreMLOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx.plugin import ExportRequest, Metadata, OpenSettings, Problem, Runner, Snippet


class CoreMLBackend(ExportBackend):
    """Writes `.mlpackage` and `.mlmodel` with coremltools."""

    contract = 1
    name = "coreml"
    help = "Export to Core ML for iPhone, iPad, Mac, Watch, TV and Vision Pro."
    suffixes = (".mlpackage", ".mlmodel")
    snippet_languages = ("python", "swift")
    runtime = "Core ML, or timmx's evaluator of its files"
    toolchain = ("coremltools",)
    preload = ("coremltools", "timmx_coreml.export", "timmx_coreml.runner")
    repairs = True
    options = CoreMLOptions

    def output_suffix(self, options: CoreMLOptions) -> str:
        return ".mlmodel" if options.convert_to is ConvertTo.NEURALNETWORK else ".mlpackage"

    def weights_limit(self, options: CoreMLOptions) -> WeightsLimit | None:
        if options.convert_to is not ConvertTo.NEURALNETWORK:
            return None
        from timmx_coreml.package import LARGEST_MODEL

        return WeightsLimit(
            LARGEST_MODEL * (1 + options.half),
            "leave --convert-to neuralnetwork out to write a .mlpackage, which has a separate weight file",
        )

    def check_environment(
        self, request: ExportRequest | None = None, options: CoreMLOptions | None = None
    ) -> Sequence[Problem]:
        from timmx_coreml.validation import missing

        return missing()

    def validate(self, request: ExportRequest, options: CoreMLOptions) -> None:
        from timmx_coreml.validation import validate

        validate(request, options)

    def export(self, job: ExportJob, options: CoreMLOptions) -> Exported:
        from timmx_coreml.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        from timmx_coreml.runner import open_runner

        settings.require_device(Device.CPU, path)
        return open_runner(path, ComputeUnits.CPU if settings.device else ComputeUnits.ALL)

    def open_exported(self, path: Path, options: CoreMLOptions, settings: OpenSettings) -> Runner:
        from timmx_coreml.runner import open_runner

        return open_runner(path, options.compute_units or ComputeUnits.ALL)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_coreml.package import read_metadata

        return read_metadata(path)

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet:
        from timmx_coreml.snippets import snippet

        return snippet(path, metadata, language)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_coreml.inspection import inspect

        return inspect(path)
