"""What a backend is: the contract between the core and every plugin, version 1.

Light on purpose: a plugin's entry point imports this file, and `timmx <backend> --help` imports the entry
point, so nothing here (and nothing at the top of a plugin's own module) may import torch or a converter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch

    from timmx.options import ExportRequest

CONTRACT = 1
"""The contract version that this core speaks; `SUPPORTED_CONTRACTS` are those that it accepts."""

SUPPORTED_CONTRACTS = range(1, 2)


class Precision(StrEnum):
    """The arithmetic of an artifact, as its metadata and the floors of verification name it."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8_WEIGHTS = "int8-weights"
    """8-bit weights, float activations: weight-only, or quantized while running ("dynamic")."""
    INT8 = "int8"
    INT16X8 = "int16x8"
    """16-bit activations, 8-bit weights."""
    FP8 = "fp8"
    INT6_WEIGHTS = "int6-weights"
    INT4_WEIGHTS = "int4-weights"


@dataclass(frozen=True)
class Problem:
    """Something that the environment lacks, and the command that fixes it."""

    message: str
    fix: str
    partial: bool = False
    """The backend does part of its work all the same: `doctor` shows it as a limit, not as a problem."""


NOT_DECLARED = "not declared by this backend"
"""The default of every capability that is added after contract 1's first release: closed until it is claimed."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a format can hold: True, or the reason why not, which the user is shown word for word."""

    dynamic_batch: Literal[True] | str = True
    dynamic_batch_from_one: Literal[True] | str = True
    """An explicit `--batch-size 1` beside `--dynamic-batch`."""
    several_outputs: Literal[True] | str = True
    cuda: Literal[True] | str = True
    """Tracing, exporting and verifying with `--device cuda`."""
    reproducible: Literal[True] | str = True
    """The same export twice gives the same bytes."""


@dataclass(frozen=True)
class Quantization:
    """What the whole numbers of a tensor stand for: real = scale * (stored - zero_point)."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"a scale is a number above 0, not {self.scale}")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact, as its runtime reports it.

    Attributes:
        name: the name to feed or fetch it by.
        shape: sizes, in the order of `layout`; a symbolic size is its name, such as `batch`.
        dtype: numpy's name of the element type, such as `float32`.
        layout: one letter an axis, such as `NCHW`, `NHWC` or `NC`; empty where unknown.
        quantization: what whole numbers stand for. None for float tensors, and for an input of `uint8` that takes
            pixel values from 0 to 255.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: str = ""
    quantization: Quantization | None = None


class Runner(ABC):
    """An artifact opened in its own runtime: arrays in, arrays out. Usable in `with`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...] = (1, 2, 3)
    """Where the batch is symbolic: the sizes to verify at, the smallest and largest accepted among them."""
    engine: str = ""
    """What computes where it is not the format's own runtime, such as `timmx's evaluator`; said beside the figures."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the runs so far have shown that the user should know, one line each; read after verification."""
        return ()

    @abstractmethod
    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once. `feeds` maps every input's name to an array of its shape and dtype; outputs likewise."""

    def close(self) -> None:
        """Give back what the runtime holds; the default has nothing to give back."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(frozen=True)
class Exported:
    """What `export` reports of the file that it wrote."""

    precision: Precision
    notes: tuple[str, ...] = ()
    """What the user should know of this file, one line each."""

    def __post_init__(self) -> None:
        if not isinstance(self.precision, Precision) or not isinstance(self.notes, tuple):
            raise TypeError(
                "Exported takes a Precision and a tuple of notes, such as Exported(Precision.FP32, ())"
            )


class Calibration(Protocol):
    """Typical inputs, (1, C, H, W) float32 each, as the artifact takes them before any quantization.

    They are read while they are iterated, never all in memory, and may be iterated as often as needed.
    """

    @property
    def origin(self) -> str:
        """Where they come from, such as `128 images of photos`."""

    def __len__(self) -> int:
        """How many there are; images that turn out to be damaged while they are read no longer count."""

    def __iter__(self) -> Iterator[np.ndarray]:
        """One by one, (1, C, H, W) float32.

        Raises:
            ConfigurationError: too few of them can be read.
        """

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """(size, C, H, W) float32; the last batch is filled up with inputs of its own.

        Raises:
            ConfigurationError: too few of them can be read.
        """


class ExportJob(Protocol):
    """One export, as a backend sees it. The core makes it; a backend only reads it."""

    @property
    def request(self) -> ExportRequest:
        """The shared options, as the user gave them."""

    @property
    def path(self) -> Path:
        """Where to write: the artifact's final name, in a private folder. Its neighbours are published too."""

    @property
    def model(self) -> torch.nn.Module:
        """The prepared model, in eval mode on `request.device`: (N, C, H, W) in, a tensor or a tuple out."""

    @property
    def example_input(self) -> torch.Tensor:
        """An input of the traced size, (N, C, H, W), float32."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The artifact's output names, in the order of the model's outputs."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes' names, by class number, or None where nobody knows them."""

    def capture(self, *, strict: bool = False) -> torch.export.ExportedProgram:
        """The prepared model as an ExportedProgram, constants folded; dynamic in N if the request says so.

        Made at the first call and kept. Its input is named `input`. `strict` traces through TorchDynamo.

        Raises:
            UnsupportedError: torch.export cannot trace this model.
        """

    def calibration(self, data: Path | None, samples: int | None = None) -> Calibration:
        """Typical inputs, to find the ranges of activations with. Ask before the conversion: bad data is told here.

        Args:
            data: a folder of images or a file of tensors, the option `timmx.options.CalibrationData`; None for made
                pictures, with a warning.
            samples: how many at most, 128 unless given.

        Raises:
            ConfigurationError: the data cannot serve this model, with a hint.
        """

    def metadata(
        self,
        precision: Precision,
        *,
        input_dtype: Literal["float32", "uint8", "int8", "int16"] = "float32",
        input_layout: Literal["NCHW", "NHWC"] = "NCHW",
        input_quantization: Quantization | None = None,
        output_dtypes: Mapping[str, str] | None = None,
        output_quantization: Mapping[str, Quantization] | None = None,
        **format_facts: Any,
    ) -> dict[str, Any]:
        """The JSON to put into the artifact (docs/metadata.md), `format_facts` under the key `format`.

        Args:
            precision: the arithmetic inside.
            input_dtype: what the artifact takes. `uint8` without a quantization stands for pixel values from 0 to
                255, which a graph that normalises (`request.normalize`) can be fed with.
            input_layout: the order of the input's axes.
            input_quantization: what the input's whole numbers stand for.
            output_dtypes: by output name, where it is not float32.
            output_quantization: by output name, what its whole numbers stand for.
            format_facts: what only this format has; JSON values.

        Raises:
            ValueError: an unknown layout or output, or whole numbers of which nobody knows what they stand for.
        """

    def beside(self, output: Path) -> Path:
        """Where to write a further file or folder that the user has named; published as `output` with the artifact.

        Raises:
            ArtifactError: it cannot be written there.
        """

    def progress(self, step: str) -> None:
        """Say what is being done now, such as "Converting"."""


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """How a file is loaded and run in one language; `timmx inspect --snippet` puts the image's way around it.

    Attributes:
        requires: what to install, as the language's users would name it.
        imports: lines for the top.
        load: lines that open the file.
        run: lines that run it. They find the prepared image as `x` and leave the first output as `output`. In Python
            both are numpy arrays with the batch in front; in the other languages both are flat, of one image.
        labels: an expression that reads the class names from the opened file; empty where there is none.
        takes_picture: `x` is the image itself, resized and cropped, in the type that the language has for images.
        least_batch: as many images the file wants at least, where its batch is open.
    """

    requires: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    labels: str = ""
    takes_picture: bool = False
    least_batch: int = 1


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
    """

    contract: ClassVar[int]
    name: ClassVar[str]
    help: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    options: ClassVar[type] = NoOptions
    capabilities: ClassVar[Capabilities] = Capabilities()
    caveat: ClassVar[str] = ""
    snippet_languages: ClassVar[tuple[str, ...]] = ("python",)

    def create_command(self) -> Callable[..., Any]:
        """A plain function with Annotated parameters: Typer can register it, Python can call it.

        It takes the shared options and the backend's own, exports, and returns an `ExportResult`.
        """
        from timmx.command import create_command

        return create_command(self)

    def output_suffix(self, options: Any) -> str:
        """The suffix that these options write."""
        return self.suffixes[0]

    def prepared(self, options: Any) -> Path | None:
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
        """Write `job.path`, with `job.metadata(precision)` inside.

        Raises:
            UnsupportedError: the format cannot hold the model, with the reason and a hint.
        """

    @abstractmethod
    def open(self, path: Path) -> Runner:
        """Open an artifact in its runtime.

        Raises:
            RuntimeUnavailable: it cannot run here, with the reason.
            ArtifactError: the file is not of this format.
        """

    def open_exported(self, path: Path, options: Any) -> Runner:
        """Open what was just exported with these options, for its verification; by default as anyone would.

        Raises:
            RuntimeUnavailable, ArtifactError: see `open`.
        """
        return self.open(path)

    @abstractmethod
    def read_metadata(self, path: Path) -> dict[str, Any]:
        """The JSON inside an artifact, or {} where there is none; without torch where the format allows.

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

    def snippet(self, path: Path, metadata: Mapping[str, Any], language: str) -> Snippet | None:
        """How this file is run in one of `snippet_languages`; optional.

        Args:
            path: of a file that timmx wrote.
            metadata: inside it.
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
