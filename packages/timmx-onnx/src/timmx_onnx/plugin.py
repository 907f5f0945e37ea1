"""The `onnx` backend: what it is and which options it has. Light; the work is in `export` and `runner`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from timmx.plugin import ExportBackend, Exported, ExportJob

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.plugin import Runner, Snippet


class OnnxMode(StrEnum):
    """The arithmetic of the graph; input and output are float32 in each."""

    FP32 = "fp32"
    FP16 = "fp16"


@dataclass(frozen=True)
class OnnxOptions:
    """Options of `timmx onnx` alone."""

    opset: Annotated[
        int,
        typer.Option("--opset", min=18, max=24, help="ONNX operator set."),
    ] = 20
    mode: Annotated[
        OnnxMode,
        typer.Option(
            "--mode",
            help="fp16 halves the file and keeps normalisation layers, softmax and --normalize in float32.",
        ),
    ] = OnnxMode.FP32
    external_data: Annotated[
        bool | None,
        typer.Option(
            "--external-data/--no-external-data",
            help="Put the weights into a second file beside it. Default: only above 2 GB, ONNX's limit.",
            show_default=False,
        ),
    ] = None
    optimize: Annotated[
        bool,
        typer.Option("--optimize/--no-optimize", help="Fold and fuse the graph; the numbers stay."),
    ] = True


class OnnxBackend(ExportBackend):
    """Writes `.onnx` files with PyTorch's exporter."""

    contract = 1
    name = "onnx"
    help = "Export to ONNX for ONNX Runtime, browsers, OpenVINO and TensorRT."
    suffixes = (".onnx",)
    snippet_languages = ("python", "kotlin", "js")
    options = OnnxOptions

    def export(self, job: ExportJob, options: OnnxOptions) -> Exported:
        from timmx_onnx.export import export

        return export(job, options)

    def open(self, path: Path) -> Runner:
        from timmx_onnx.runner import OnnxRunner

        return OnnxRunner(path)

    def read_metadata(self, path: Path) -> dict[str, Any]:
        from timmx_onnx.proto import read_metadata

        return read_metadata(path)

    def inspect(self, path: Path) -> dict[str, Any]:
        from timmx_onnx.proto import inspect

        return inspect(path)

    def snippet(self, path: Path, metadata: Mapping[str, Any], language: str) -> Snippet:
        from timmx_onnx.snippets import snippet

        return snippet(path, metadata, language)

    def files(self, path: Path) -> tuple[Path, ...]:
        from timmx_onnx.proto import external_files

        return (path, *external_files(path))
