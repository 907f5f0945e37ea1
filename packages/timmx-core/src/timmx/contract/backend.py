"""What a backend is: the contract between the core and every plugin, version 1.

A plugin's entry point imports this file, and `timmx <backend> --help` imports the entry point. Nothing here, and
nothing at the top of a plugin's own module, may import torch or a converter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from timmx.contract.capabilities import Capabilities
from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from timmx.contract.capabilities import Problem, WeightsLimit
    from timmx.contract.job import Exported, ExportJob
    from timmx.contract.metadata import Metadata
    from timmx.contract.options import ExportRequest, RuntimeDevice
    from timmx.contract.runner import OpenSettings, Runner
    from timmx.contract.snippet import Snippet

SUPPORTED_CONTRACTS = range(1, 2)


_command_maker: Callable[[ExportBackend], Callable[..., Any]] | None = None


def register_command_maker(maker: Callable[[ExportBackend], Callable[..., Any]]) -> None:
    """Register the body of `ExportBackend.create_command`, which lies in a room above this one.

    `import timmx` calls this once.
    """
    global _command_maker
    _command_maker = maker


@dataclass(frozen=True)
class NoOptions:
    """The options of a backend that has none of its own."""


class ExportBackend(ABC):
    """A plugin that writes one format; register the subclass under the entry-point group `timmx.backends`.

    Attributes:
        contract: the contract version that the plugin was written for, a literal.
        name: the command, lower-case words joined by hyphens; equal to the entry point's name.
        help: one or two sentences for `timmx <name> --help`.
        suffixes: every file suffix that `open` takes, the default first.
        companions: suffixes of the files that always stand next to the artifact under its name, such as `.bin`.
        options: a frozen dataclass, one field per option: `field: Annotated[type, typer.Option(...)] = default`.
        capabilities: what the format does not support, with reasons.
        caveat: a limitation that users should know, such as hardware that was not tested; `timmx doctor` shows it.
        snippet_languages: languages that `snippet` supports, of python, swift, kotlin, js and cpp.
        runtime: what opens its files, such as `ONNX Runtime`; for the message if that crashes.
        toolchain: distributions that convert, write or run the file, such as `("onnx", "onnxruntime")`. The metadata
            records the versions of the installed ones.
        runtime_devices: what `OpenSettings.runtime_device` may be: the devices on which the runtime can compute. The
            core refuses others.
        repairs: whether `export` uses `job.repair`.
        preload: modules that take long to import, such as `("onnxscript", "timmx_onnx.export")`: a sweep imports them
            once for all models, and forks. Importing them must not start threads.
    """

    contract: ClassVar[int]
    name: ClassVar[str]
    help: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    companions: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[type] = NoOptions
    capabilities: ClassVar[Capabilities] = Capabilities()
    caveat: ClassVar[str] = ""
    snippet_languages: ClassVar[tuple[str, ...]] = ("python",)
    runtime: ClassVar[str] = ""
    runtime_devices: ClassVar[tuple[RuntimeDevice, ...]] = ()
    toolchain: ClassVar[tuple[str, ...]] = ()
    repairs: ClassVar[bool] = False
    preload: ClassVar[tuple[str, ...]] = ()

    def create_command(self) -> Callable[..., Any]:
        """A function with Annotated parameters that Typer can register and Python can call.

        It takes the shared options and the backend's own, exports a model, and returns an `ExportResult`.
        """
        assert _command_maker is not None, "importing timmx registers it"
        return _command_maker(self)

    def output_suffix(self, options: Any) -> str:
        """The suffix of the file that is written with these options."""
        return self.suffixes[0]

    def source_artifact(self, options: Any) -> Path | None:
        """The file of an earlier export that these options convert instead of MODEL; None if MODEL is required.

        A backend that overrides this must not call `job.capture` for such a file. The artifact is verified against
        the outputs of that file, so `open` and `read_metadata` must accept it.
        """
        return None

    def extra_outputs(self, options: Any, output: Path) -> Sequence[Path]:
        """The further files and folders that these options name, and that an export to `output` writes.

        Two exports of one command that would write the same one are refused before the work.
        """
        return ()

    def weights_limit(self, options: Any) -> WeightsLimit | None:
        """The most weights that a file with these options holds; None if it holds any number.

        A larger model is refused before its weights are loaded, or, if several formats share it, before it is
        converted to this one.
        """
        return None

    def check_environment(
        self, request: ExportRequest | None = None, options: Any = None
    ) -> Sequence[Problem]:
        """Problems of this machine for this request, or for any request if it is None. Never raises."""
        return ()

    def validate(self, request: ExportRequest, options: Any) -> None:
        """Check the options before anything heavy is imported.

        Raises:
            ConfigurationError: the options contradict each other or the request, with a hint.
        """

    @abstractmethod
    def export(self, job: ExportJob, options: Any) -> Exported:
        """Write `job.path`, with the JSON of `job.metadata(precision)` inside.

        Raises:
            UnsupportedError: the format cannot hold the model, with the reason and a hint.
        """

    @abstractmethod
    def open(self, path: Path, settings: OpenSettings) -> Runner:
        """Open an artifact in its runtime.

        Args:
            path: the artifact.
            settings: device and threads; `settings.require_device` raises for a device that the runtime lacks.

        Raises:
            RuntimeUnavailable: it cannot run here, with the reason.
            ArtifactError: the file is not of this format.
            ConfigurationError: it does not run on `settings.device`.
        """

    def open_exported(self, path: Path, options: Any, settings: OpenSettings) -> Runner:
        """Open a file for verification right after it was exported with these options; calls `open` by default.

        Raises:
            RuntimeUnavailable, ArtifactError: see `open`.
        """
        return self.open(path, settings)

    @abstractmethod
    def read_metadata(self, path: Path) -> dict[str, Any]:
        """The JSON metadata of an artifact, or {} if it has none; without importing torch where possible.

        The core checks it and converts it to a `Metadata`.

        Raises:
            ArtifactError: the file is not of this format.
        """

    def inspect(self, path: Path) -> dict[str, Any]:
        """Facts about a file beyond its metadata, as JSON values; optional, imports nothing heavy.

        `operations` maps the format's names of operations to their count, `parameters` is a number, `inputs` and
        `outputs` list the tensors of the graph: `name`, `shape`, `dtype`, and `quantization` as in the metadata if
        they are quantized. Other keys are shown as they are.

        Raises:
            ArtifactError: the file is not of this format.
        """
        return {}

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet | None:
        """Code that runs this file in one of `snippet_languages`; optional.

        Args:
            path: a file that timmx wrote.
            metadata: its metadata.
            language: one of `snippet_languages`.

        Returns:
            None for Python code that opens the file with `timmx.open`.
        """
        return None

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files and folders that belong to the artifact at `path`, itself first; `companions` that exist."""
        if not path.exists():
            raise ArtifactError(f"{path} does not exist", hint="check the path")
        beside = (path.with_suffix(suffix) for suffix in self.companions)
        return (path, *(companion for companion in beside if companion.exists()))
