"""The `torchscript` backend. Its methods import the modules that do the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.plugin import Capabilities, ConfigurationError, ExportBackend, Exported, ExportJob

from timmx_torchscript.options import TorchScriptOptions

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import ExportRequest, OpenSettings, Runner


class TorchScriptBackend(ExportBackend):
    """Writes `.torchscript` files with `torch.jit.trace`."""

    contract = 1
    name = "torchscript"
    help = "Export to TorchScript, which PyTorch's C++ library (LibTorch) loads."
    suffixes = (".torchscript",)
    options = TorchScriptOptions
    capabilities = Capabilities(
        reproducible=(
            "TorchScript gives each class of a trace a name that is new in its process, such as "
            "___torch_mangle_12, and writes it into the file."
        ),
    )

    def validate(self, request: ExportRequest, options: TorchScriptOptions) -> None:
        if options.optimize_numerics and not options.freeze:
            raise ConfigurationError(
                "--optimize-numerics applies to freezing, which --no-freeze turns off",
                hint="leave one of them out",
            )

    def export(self, job: ExportJob, options: TorchScriptOptions) -> Exported:
        from timmx_torchscript.export import export

        return export(job, options)

    def open(self, path: Path, settings: OpenSettings) -> Runner:
        from timmx_torchscript.runner import TorchScriptRunner

        return TorchScriptRunner(path, settings)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_torchscript.archive import read_metadata

        return read_metadata(path)
