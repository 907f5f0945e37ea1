"""The arguments and options that several commands share."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.contract import MODEL_OPTIONS, ExportRequest, RuntimeDevice
from timmx.registry import option_specs, set_signature

if TYPE_CHECKING:
    from collections.abc import Callable


_MESSAGES = "Messages"

VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", help="Show each step and what libraries print.", rich_help_panel=_MESSAGES),
]

DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=_MESSAGES)
]


@dataclass(frozen=True)
class MessageOptions:
    """Options that every export command has in addition to its own."""

    verbose: VerboseOption = False
    debug: DebugOption = False


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A file that timmx wrote, of any format.")]

ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Also write an HTML report with tables and plots."),
]

TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Also load files that can run code. Use only for files that you trust."),
]

RuntimeDeviceOption = Annotated[
    RuntimeDevice | None,
    typer.Option(
        "--runtime-device",
        help="Where the runtime computes, if its format has a choice, such as OpenVINO. Default: the CPU.",
        show_default=False,
    ),
]

BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", help="Batch size, if the file has a dynamic one. Default: 8."),
]

ExifOption = Annotated[
    bool | None,
    typer.Option(
        "--exif/--no-exif",
        help="Turn images as their EXIF orientation says. Default: as the metadata says.",
        show_default=False,
    ),
]

ImageBitsOption = Annotated[
    int | None,
    typer.Option(
        "--image-bits",
        metavar="N",
        help="Depth of 16-bit images, such as 12. Default: as each file states, otherwise 16.",
        show_default=False,
    ),
]

MaxPixelsOption = Annotated[
    int,
    typer.Option("--max-pixels", help="Largest number of pixels of an image that is decoded."),
]

WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Number of threads that decode images. Default: one per core, up to 16."),
]


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the model options of exports to a command, such as `--pretrained` and `--checkpoint`.

    The command receives them as one keyword, `model_options`: a mapping by name, without those that were not given.
    """
    specs = option_specs(ExportRequest)
    signature = inspect.signature(command, eval_str=True)

    def run(**values: Any) -> None:
        options = {name: values.pop(name) for name in MODEL_OPTIONS}
        command(model_options={k: v for k, v in options.items() if v != specs[k].default}, **values)

    own = [item for name, item in signature.parameters.items() if name != "model_options"]
    further = [specs[name].parameter() for name in MODEL_OPTIONS]
    positional = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    set_signature(run, [*positional, *further])
    return run
