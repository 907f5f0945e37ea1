"""What a backend is: the contract between the core and every plugin, version 1.

Light on purpose: a plugin's entry point imports this file, and `timmx <backend> --help` imports the entry
point, so nothing here (and nothing at the top of a plugin's own module) may import torch or a converter.
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

    from timmx.contract.capabilities import Problem
    from timmx.contract.job import Exported, ExportJob
    from timmx.contract.metadata import Metadata
    from timmx.contract.options import ExportRequest
    from timmx.contract.runner import OpenSettings, Runner
    from timmx.contract.snippet import Snippet

CONTRACT = 1
"""The contract version that this core speaks; `SUPPORTED_CONTRACTS` are those that it accepts."""

SUPPORTED_CONTRACTS = range(1, 2)


_command_maker: Callable[[ExportBackend], Callable[..., Any]] | None = None


def register_command_maker(maker: Callable[[ExportBackend], Callable[..., Any]]) -> None:
    """Supply the body of `ExportBackend.create_command`, which exports: rooms above this one know how.

    `import timmx` does it once.
    """
    global _command_maker
    _command_maker = maker


@dataclass(frozen=True)
class NoOptions:
    """The options of a backend that has none of its own."""


class ExportBackend(ABC):
    """A plugin that writes one format; subclass it and name the subclass in `timmx.backends`.

    Attributes:
        contract: the contract version that the plugin was written for, a literal.
        name: the command, lower-case words joined by hyphens; equal to the entry point's name.
        help: one or two sentences for `timmx <name> --help`.
        suffixes: every file suffix that `open` takes, the default first.
        options: a frozen dataclass, one field an option: `field: Annotated[type, typer.Option(...)] = default`.
        capabilities: what the format cannot do, with reasons.
        caveat: what a user should know before relying on it, such as hardware that it was never tried on; `timmx
            doctor` shows it.
        snippet_languages: what `snippet` knows, of python, swift, kotlin and js.
        toolchain: distributions that convert, write or run the file, such as `("onnx", "onnxruntime")`. The metadata
            has the versions of those that are installed.
    """

    contract: ClassVar[int]
    name: ClassVar[str]
    help: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    options: ClassVar[type] = NoOptions
    capabilities: ClassVar[Capabilities] = Capabilities()
    caveat: ClassVar[str] = ""
    snippet_languages: ClassVar[tuple[str, ...]] = ("python",)
    toolchain: ClassVar[tuple[str, ...]] = ()

    def create_command(self) -> Callable[..., Any]:
        """A plain function with Annotated parameters: Typer can register it, Python can call it.

        It takes the shared options and the backend's own, exports, and returns an `ExportResult`.
        """
        assert _command_maker is not None, "importing timmx registers it"
        return _command_maker(self)

    def output_suffix(self, options: Any) -> str:
        """The suffix that these options write."""
        return self.suffixes[0]

    def source_artifact(self, options: Any) -> Path | None:
        """A file of an earlier export that these options take in MODEL's place; None where MODEL is due.

        Where a backend has this, MODEL may be left out, and `job.capture` is not to be called. What the artifact is
        verified by are the answers of the file itself, which `open` and `read_metadata` take.
        """
        return None

    def check_environment(
        self, request: ExportRequest | None = None, options: Any = None
    ) -> Sequence[Problem]:
        """What this machine lacks for this request, or for any where none is given. Never raises."""
        return ()

    def validate(self, request: ExportRequest, options: Any) -> None:
        """Refuse what cannot work, before anything heavy is imported.

        Raises:
            ConfigurationError: a combination that makes no sense, with a hint.
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
            settings: device and threads; `settings.require_device` refuses a device that the runtime does not have.

        Raises:
            RuntimeUnavailable: it cannot run here, with the reason.
            ArtifactError: the file is not of this format.
            ConfigurationError: it does not run on `settings.device`.
        """

    def open_exported(self, path: Path, options: Any, settings: OpenSettings) -> Runner:
        """Open the file that was just exported with these options, for its verification; calls `open` by default.

        Raises:
            RuntimeUnavailable, ArtifactError: see `open`.
        """
        return self.open(path, settings)

    @abstractmethod
    def read_metadata(self, path: Path) -> dict[str, Any]:
        """The JSON inside an artifact, or {} where there is none; without torch where the format allows.

        The core checks it and makes it a `Metadata`.

        Raises:
            ArtifactError: the file is not of this format.
        """

    def inspect(self, path: Path) -> dict[str, Any]:
        """What the format can tell of a file beyond its metadata; optional, JSON values, light.

        `operations` maps the format's own names of operations to their count, `parameters` is a number, `inputs` and
        `outputs` list what the graph itself says of its edges: `name`, `shape`, `dtype`, and `quantization` as in the
        metadata where there is one. Other keys are shown as they are.

        Raises:
            ArtifactError: the file is not of this format.
        """
        return {}

    def snippet(self, path: Path, metadata: Metadata, language: str) -> Snippet | None:
        """How this file is run in one of `snippet_languages`; optional.

        Args:
            path: of a file that timmx wrote.
            metadata: what it says about itself.
            language: of `snippet_languages`.

        Returns:
            None for Python code that opens the file with `timmx.open`.
        """
        return None

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files and folders that belong to the artifact at `path`, itself first."""
        if not path.exists():
            raise ArtifactError(f"{path} does not exist", hint="check the path")
        return (path,)
