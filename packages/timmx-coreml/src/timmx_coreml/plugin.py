"""The `coreml` backend: what it is and which options it has. Light; the work is in `export` and `runner`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from timmx.plugin import ExportBackend, Exported, ExportJob, Ints

from timmx_coreml.targets import Target  # noqa: TC001 - Typer resolves the annotations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from timmx.plugin import ExportRequest, Problem, Runner, Snippet


class ConvertTo(StrEnum):
    """The two kinds of Core ML model."""

    MLPROGRAM = "mlprogram"
    NEURALNETWORK = "neuralnetwork"


class ComputePrecision(StrEnum):
    """The arithmetic of an mlprogram; input and output are float32 in both."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Quantize(StrEnum):
    """How the weights of an mlprogram are stored."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"
    PALETTE8 = "palette8"
    PALETTE6 = "palette6"
    PALETTE4 = "palette4"


class ComputeUnits(StrEnum):
    """Where Core ML may compute."""

    ALL = "all"
    CPU = "cpu"
    CPU_GPU = "cpu-gpu"
    CPU_NE = "cpu-ne"


_WEIGHTS, _INPUT, _KIND = "Weights", "Input and output tensors", "Kind of Core ML model"


@dataclass(frozen=True)
class CoreMLOptions:
    """Options of `timmx coreml` alone."""

    convert_to: Annotated[
        ConvertTo,
        typer.Option(
            "--convert-to",
            help="mlprogram writes .mlpackage; neuralnetwork writes .mlmodel, for systems before iOS 15.",
            rich_help_panel=_KIND,
        ),
    ] = ConvertTo.MLPROGRAM
    target: Annotated[
        Target | None,
        typer.Option(
            "--target",
            help="Oldest system that must run the file. Default: the oldest that the other options allow.",
            show_default=False,
            rich_help_panel=_KIND,
        ),
    ] = None
    compute_precision: Annotated[
        ComputePrecision | None,
        typer.Option(
            "--compute-precision",
            help="Arithmetic of an mlprogram; float16 by default, which the Neural Engine needs.",
            show_default=False,
            rich_help_panel=_KIND,
        ),
    ] = None
    quantize: Annotated[
        Quantize,
        typer.Option(
            "--quantize",
            help="Weights of an mlprogram: int8 scaled per channel, int4 per block (ios18), or an index into a "
            "palette of 2^8, 2^6 or 2^4 values (ios16; palettes per group of channels from ios18 on).",
            rich_help_panel=_WEIGHTS,
        ),
    ] = Quantize.NONE
    half: Annotated[
        bool,
        typer.Option(
            "--half", help="Store the weights of a neuralnetwork in float16.", rich_help_panel=_WEIGHTS
        ),
    ] = False
    batch_upper_bound: Annotated[
        int | None,
        typer.Option(
            "--batch-upper-bound",
            min=2,
            help="Largest batch of --dynamic-batch; 8 by default.",
            show_default=False,
            rich_help_panel=_INPUT,
        ),
    ] = None
    batch_sizes: Annotated[
        Ints | None,
        typer.Option(
            "--batch-sizes",
            parser=Ints.parse,
            metavar="N,M,...",
            help="The only batch sizes of --dynamic-batch, the first the default one; so all of them can run on the "
            "Neural Engine.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    image_input: Annotated[
        bool,
        typer.Option(
            "--image-input",
            help="Take a picture (RGB or grayscale) instead of an array; needs --normalize and batch size 1.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    classifier: Annotated[
        bool,
        typer.Option(
            "--classifier",
            help="Give classLabel and classLabel_probs, as Vision and Xcode's preview want them; needs labels.",
            rich_help_panel=_INPUT,
        ),
    ] = False
    compute_units: Annotated[
        ComputeUnits | None,
        typer.Option(
            "--compute-units",
            help="Where Core ML runs the file to verify it; macOS only. Default: all.",
            show_default=False,
            rich_help_panel="Verification",
        ),
    ] = None


class CoreMLBackend(ExportBackend):
    """Writes `.mlpackage` and `.mlmodel` with coremltools."""

    contract = 1
    name = "coreml"
    help = "Export to Core ML for iPhone, iPad, Mac, Watch, TV and Vision Pro."
    suffixes = (".mlpackage", ".mlmodel")
    snippet_languages = ("python", "swift")
    options = CoreMLOptions

    def output_suffix(self, options: CoreMLOptions) -> str:
        return ".mlmodel" if options.convert_to is ConvertTo.NEURALNETWORK else ".mlpackage"

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

    def open(self, path: Path) -> Runner:
        from timmx_coreml.runner import open_runner

        return open_runner(path)

    def open_exported(self, path: Path, options: CoreMLOptions) -> Runner:
        from timmx_coreml.runner import open_runner

        return open_runner(path, options.compute_units or ComputeUnits.ALL)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_coreml.package import read_metadata

        return read_metadata(path)

    def snippet(self, path: Path, metadata: Mapping[str, Any], language: str) -> Snippet:
        from timmx_coreml.snippets import snippet

        return snippet(path, metadata, language)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_coreml.inspection import inspect

        return inspect(path)
