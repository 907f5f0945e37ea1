"""The `torch-export` backend. Importing it is fast; `export` and `runner` do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import Capabilities, ExportBackend, Exported, ExportJob

from timmx_torch_export.options import TorchExportOptions

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import Metadata, OpenSettings, Runner, Snippet


class TorchExportBackend(ExportBackend):
    """Writes `.pt2` files with `torch.export.save`."""

    contract = 1
    name = "torch-export"
    help = "Export to .pt2 (torch.export) for PyTorch, AOTInductor and ExecuTorch."
    suffixes = (".pt2",)
    snippet_languages = ("python",)
    runtime = "PyTorch"
    preload = ("timmx_torch_export.export", "timmx_torch_export.runner")
    options = TorchExportOptions
    capabilities = Capabilities(
        dynamic_batch_from_one=(
            "torch.export treats a batch size of 1 as a constant. Leave --batch-size out: the trace then uses "
            "another batch size, and the file takes any batch size from 1"
        ),
    )

    def export(self, job: ExportJob, options: TorchExportOptions) -> Exported:
        from timmx_torch_export.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        from timmx_torch_export.runner import Pt2Runner

        return Pt2Runner(path, settings)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_torch_export.archive import read_metadata

        return read_metadata(path)

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet:
        from timmx_torch_export.snippets import snippet

        return snippet(path, metadata, language)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_torch_export.archive import inspect

        return inspect(path)
