"""`timmx export MODEL --to FORMAT ...`: several formats from one load, from options or a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.cli.completion import completing_models
from timmx.cli.options import MessageOptions
from timmx.cli.output import write, write_error, write_json, write_traceback
from timmx.contract import ExportRequest
from timmx.errors import ConfigurationError
from timmx.registry import option_specs, set_signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx.exporting import ManyResult

_TARGETS = "Targets"


@dataclass(frozen=True)
class ManyOptions:
    """Options that only `timmx export` has, or that have another meaning there."""

    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="FORMAT[:KEY=VALUE,...]",
            help="Format to export to, with options for this target only: the format's own (see timmx FORMAT --help), "
            "batch-size, dynamic-batch, min-snr, min-agreement and output (the file name). KEY without a value turns a "
            "flag on; values may contain commas (batch-sizes=1,2,4). Repeatable.",
            rich_help_panel=_TARGETS,
        ),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Output folder; its files are replaced only on success. Default: the current folder, whose files are "
            "kept unless --force.",
            rich_help_panel=_TARGETS,
        ),
    ] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE.toml",
            help="Read the model, options and targets from a file; command-line options override it.",
            rich_help_panel=_TARGETS,
        ),
    ] = None
    recipe_schema: Annotated[
        bool,
        typer.Option(
            "--recipe-schema",
            help="Print the JSON schema of recipes for the installed formats and exit.",
            rich_help_panel=_TARGETS,
        ),
    ] = False


def export_many_command() -> Callable[..., None]:
    """The command, with all options that exports share."""

    def export(
        recipe_schema: bool = False,
        recipe: Path | None = None,
        verbose: bool = False,
        debug: bool = False,
        **values: Any,
    ) -> None:
        from timmx.cli.terminal import working
        from timmx.report import this_command

        if recipe_schema:
            _print_schema()
            return
        as_json = bool(values.pop("json"))
        options = {name: value for name, value in values.items() if value not in (None, [])}
        with working(verbose or debug):
            result = _run(options, recipe, this_command())
        if as_json:
            write_json(result.to_dict())
        else:
            _print(result)
        for failure in result.failures:
            if debug:
                write_traceback(failure.error)
            write_error(f"{failure.name} ({failure.backend}): {failure.message}", failure.hint)
        if result.failures:
            raise typer.Exit(result.exit_code)

    specs = option_specs(ExportRequest)
    model = specs["model"].parameter(optional=True)
    # None means "not given": the recipe's value is used, not a default.
    shared = [
        specs[name].parameter(optional=name != "json")
        for name in specs
        if name != "model" and name not in option_specs(ManyOptions)
    ]
    export.__doc__ = "Export a model to several formats, loading and tracing it only once."
    set_signature(
        export,
        [
            model.replace(annotation=completing_models(model.annotation)),
            *(spec.parameter() for spec in option_specs(ManyOptions).values()),
            *shared,
            *(spec.parameter() for spec in option_specs(MessageOptions).values()),
        ],
    )
    return export


def _run(options: dict[str, Any], recipe: Path | None, command: str) -> ManyResult:
    from timmx.exporting import export_many

    to: list[Any] = options.pop("to", [])
    if recipe is not None:
        from timmx.exporting import read_recipe

        content = read_recipe(recipe)
        to = to or list(content.targets)
        if len(content.models) > 1 and "model" not in options:
            raise ConfigurationError(
                f"--recipe {recipe} has {len(content.models)} models, and timmx export takes one",
                hint=f"use timmx sweep --recipe {recipe}, or name one of them",
            )
        model_of_recipe = content.models[0] if content.models else None
        options = {**content.options, "model": model_of_recipe, "output": content.output, **options}
    model, output = options.pop("model", None), options.pop("output", None)
    return export_many(model, to, output, command=command, **options)


def _print_schema() -> None:
    from timmx.exporting import recipe_schema
    from timmx.registry import load_entry, usable

    write_json(recipe_schema([load_entry(entry) for entry in usable()]))


def _print(result: ManyResult) -> None:
    from timmx.base import format_table, size_text

    per_label = any(item.verification.label_agreement is not None for item in result.results)
    agrees = "labels agree" if per_label else "top-1 agrees"
    rows = [["file", "size", "precision", "verdict", "SNR", agrees, "time"]]
    for item in result.results:
        report = item.verification
        rows.append(
            [
                item.path.name,
                size_text(item.size_bytes),
                str(item.precision),
                str(report.status),
                "-" if report.snr_db is None else f"{report.snr_db:.1f} dB",
                "-" if report.agreement is None else f"{100 * report.agreement:.1f} %",
                f"{item.seconds['total']:.1f} s",
            ]
        )
    rows += [[failure.name, "-", "-", "failed", "-", "-", "-"] for failure in result.failures]
    write("\n".join(format_table(rows, (0, 2, 3))))
    if not result.results:
        return
    origin = result.results[0].verification.origin
    shared = result.seconds["total"] - sum(item.seconds["total"] for item in result.results)
    reasons = {item.verification.reason for item in result.results if item.verification.reason}
    if origin:
        write(f"Verified on {origin}." if not reasons else f"Run on {origin}: {'; '.join(sorted(reasons))}.")
    elif reasons:
        write(f"Not verified: {'; '.join(sorted(reasons))}.")
    write(
        f"{result.seconds['total']:.1f} s in total, of which {shared:.1f} s for steps that all targets share."
    )
    write(f"{result.manifest} records these results. To compare the files: timmx compare {result.folder}")
