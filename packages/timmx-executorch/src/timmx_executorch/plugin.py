"""The `executorch` backend. Importing it is fast; `export` and `runner` do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import Device, ExportBackend, Exported, ExportJob

from timmx_executorch.options import ExecuTorchOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx.plugin import ExportRequest, Metadata, OpenSettings, Problem, Runner, Snippet


class ExecuTorchBackend(ExportBackend):
    """Writes `.pte` files with ExecuTorch, for its delegates XNNPACK and Core ML or its own kernels."""

    contract = 1
    name = "executorch"
    help = "Export to ExecuTorch (.pte) for Android, iOS and embedded Linux."
    suffixes = (".pte",)
    snippet_languages = ("python", "swift", "kotlin", "cpp")
    runtime = "the ExecuTorch runtime"
    toolchain = ("executorch", "torchao")
    preload = ("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner")
    repairs = True
    options = ExecuTorchOptions

    def check_environment(
        self, request: ExportRequest | None = None, options: ExecuTorchOptions | None = None
    ) -> Sequence[Problem]:
        from timmx_executorch.validation import problems

        return problems(options)

    def validate(self, request: ExportRequest, options: ExecuTorchOptions) -> None:
        from timmx_executorch.validation import validate

        validate(request, options)

    def export(self, job: ExportJob, options: ExecuTorchOptions) -> Exported:
        from timmx_executorch.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        from timmx_executorch.opening import open_runner

        settings.require_device(Device.CPU, path)
        return open_runner(path, settings.threads)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_executorch.pte_file import read_metadata

        return read_metadata(path)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_executorch.inspection import inspect

        return inspect(path)

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet:
        from timmx_executorch.snippets import snippet

        return snippet(path, metadata, language)

    def files(self, path: Path) -> tuple[Path, ...]:
        from timmx_executorch.pte_file import read_content, weights_of

        data = weights_of(path, read_content(path))
        return (path,) if data is None else (path, data)
