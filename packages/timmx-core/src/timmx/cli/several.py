"""What the commands that take several targets have in common: `timmx export` and `timmx sweep`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.cli.options import MessageOptions
from timmx.cli.output import write, write_error, write_json, write_traceback
from timmx.contract import ExportRequest
from timmx.registry import option_specs, set_signature

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Collection, Mapping, Sequence

    from timmx.exporting import Failure

TARGETS_PANEL = "Targets"

ToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="FORMAT[:KEY=VALUE,...]",
        help="Format to export to, with options for this target only: the format's own (see timmx FORMAT --help), "
        "batch-size, dynamic-batch, min-snr, min-agreement and output (the file name). KEY without a value turns a "
        "flag on; values may contain commas (batch-sizes=1,2,4). Repeatable.",
        rich_help_panel=TARGETS_PANEL,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Requested:
    """What the command line asks for, and a recipe where the command line does not.

    Attributes:
        models: of the command line, or else of the recipe.
        targets: likewise.
        output: likewise.
        options: shared options of both; those of the command line override.
    """

    models: tuple[str, ...]
    targets: tuple[Any, ...]
    output: Path | None
    options: Mapping[str, Any]


def requested(
    recipe: Path | None,
    *,
    models: Sequence[str],
    targets: Sequence[str],
    output: Path | None,
    options: Mapping[str, Any],
) -> Requested:
    """Complete a command line from a recipe; None of it if `recipe` is None."""
    given = {name: value for name, value in options.items() if value not in (None, [])}
    if recipe is None:
        return Requested(models=tuple(models), targets=tuple(targets), output=output, options=given)
    from timmx.exporting import read_recipe

    content = read_recipe(recipe)
    return Requested(
        models=tuple(models) or content.models,
        targets=tuple(targets) or content.targets,
        output=output or content.output,
        options={**content.options, **given},
    )


def set_options(
    command: Callable[..., None],
    own: type,
    *,
    shared: Collection[str],
    arguments: Sequence[inspect.Parameter] = (),
) -> None:
    """Set the parameters of a command: its arguments, its own options, shared ones of exports, and `--verbose`.

    Args:
        command: takes them as `**values`.
        own: the dataclass of its own options.
        shared: names of shared options. Without a value, the recipe's value is used, not a default.
        arguments: further parameters, which come first.
    """
    specs = option_specs(ExportRequest)
    set_signature(
        command,
        [
            *arguments,
            *(spec.parameter() for spec in option_specs(own).values()),
            *(specs[name].parameter(optional=name != "json") for name in specs if name in shared),
            *(spec.parameter() for spec in option_specs(MessageOptions).values()),
        ],
    )


def end(
    exit_code: int,
    *,
    json: Mapping[str, Any] | None,
    lines: Callable[[], Sequence[str]],
    indent: int | None = 2,
    failures: Sequence[Failure] = (),
    debug: bool = False,
) -> None:
    """Print the results, report failures on stderr, and exit.

    Args:
        exit_code: of the command.
        json: printed instead of the text; None to print the text.
        lines: the text.
        indent: of the JSON; None for one line.
        failures: each with an error to report.
        debug: show their tracebacks.
    """
    if json is not None:
        write_json(json, indent=indent)
    else:
        write("\n".join(lines()))
    for failure in failures:
        if debug:
            write_traceback(failure.error)
        write_error(f"{failure.name} ({failure.backend}): {failure.message}", failure.hint)
    if exit_code:
        raise typer.Exit(exit_code)
