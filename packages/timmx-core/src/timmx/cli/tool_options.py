"""The arguments and options that commands on exported files share, and those of the model beside them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.contract import MODEL_OPTIONS, ExportRequest
from timmx.registry import defaults, option_types

if TYPE_CHECKING:
    from collections.abc import Callable


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A file that timmx wrote, of any format.")]

ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Write tables and plots as one HTML file too."),
]

BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", help="Images at once, where the file takes any number; 8 by default."),
]

WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Threads that decode images; by default one a core, up to 16."),
]


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--pretrained`, `--checkpoint` and the like, as every export has them.

    They reach the command as one keyword, `model_options`: a mapping by name, whatever was not given left out.
    """
    types, preset = option_types(ExportRequest), defaults(ExportRequest)
    signature = inspect.signature(command, eval_str=True)

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in MODEL_OPTIONS}
        command(model_options={k: v for k, v in given.items() if v != preset[k]}, **values)

    own = [item for name, item in signature.parameters.items() if name != "model_options"]
    further = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=preset[name], annotation=types[name])
        for name in MODEL_OPTIONS
    ]
    positional = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own]
    parameters = [*positional, *further]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    return run
