"""`timmx export MODEL --to FORMAT ...`: several formats from one load, from options or a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.cli.completion import completing_models
from timmx.cli.output import write_json
from timmx.cli.several import TARGETS_PANEL, ToOption, end, requested, set_options
from timmx.contract import ExportRequest
from timmx.errors import ConfigurationError
from timmx.registry import option_specs

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx.exporting import ManyResult


@dataclass(frozen=True, kw_only=True)
class ManyOptions:
    """Options that only `timmx export` has, or that have another meaning there."""

    to: ToOption = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Output folder; its files are replaced only on success. Default: the current folder, whose files are "
            "kept unless --force.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = None
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            help="Number of formats to export at once, in child processes. Default: as many as cores and memory allow "
            "(0.8 GB and 6 times the weights each). 1 exports one after another in this process.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE.toml",
            help="Read the model, options and targets from a file; command-line options override it.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = None
    recipe_schema: Annotated[
        bool,
        typer.Option(
            "--recipe-schema",
            help="Print the JSON schema of recipes for the installed formats and exit.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = False


def export_many_command() -> Callable[..., None]:
    """The command, with all options that exports share."""

    def export(
        model: str | None = None,
        to: list[str] | None = None,
        output: Path | None = None,
        jobs: int | None = None,
        recipe: Path | None = None,
        recipe_schema: bool = False,
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
        with working(verbose or debug):
            from timmx.exporting import export_many

            wanted = requested(
                recipe, models=[model] if model else [], targets=to or (), output=output, options=values
            )
            if len(wanted.models) > 1:
                raise ConfigurationError(
                    f"--recipe {recipe} has {len(wanted.models)} models, and timmx export takes one",
                    hint=f"use timmx sweep --recipe {recipe}, or name one of them",
                )
            result = export_many(
                next(iter(wanted.models), None),
                wanted.targets,
                wanted.output,
                jobs=jobs,
                command=this_command(),
                **wanted.options,
            )
        end(
            result.exit_code,
            json=result.to_dict() if as_json else None,
            lines=lambda: _lines(result),
            failures=result.failures,
            debug=debug,
        )

    specs, own = option_specs(ExportRequest), option_specs(ManyOptions)
    model = specs["model"].parameter(optional=True)
    export.__doc__ = "Export a model to several formats, loading and tracing it only once."
    set_options(
        export,
        ManyOptions,
        shared=[name for name in specs if name != "model" and name not in own],
        arguments=[model.replace(annotation=completing_models(model.annotation))],
    )
    return export


def _print_schema() -> None:
    from timmx.exporting import recipe_schema
    from timmx.registry import load_entry, usable

    write_json(recipe_schema([load_entry(entry) for entry in usable()]))


def _lines(result: ManyResult) -> list[str]:
    """A table of the files, and what all have in common."""
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
    lines = format_table(rows, (0, 2, 3))
    if not result.results:
        return lines
    origin = result.results[0].verification.origin
    shared = sum(seconds for step, seconds in result.seconds.items() if step != "total")
    reasons = {item.verification.reason for item in result.results if item.verification.reason}
    if origin:
        lines.append(
            f"Verified on {origin}." if not reasons else f"Run on {origin}: {'; '.join(sorted(reasons))}."
        )
    elif reasons:
        lines.append(f"Not verified: {'; '.join(sorted(reasons))}.")
    memory = f"; {size_text(result.memory_bytes)} of memory" if result.memory_bytes else ""
    at_once = f"; {result.jobs} processes at once" if result.jobs > 1 else ""
    lines.append(
        f"{result.seconds['total']:.1f} s in total, of which {shared:.1f} s for steps that all targets share{at_once}"
        f"{memory}."
    )
    lines.append(
        f"{result.manifest} records these results. To compare the files: timmx compare {result.folder}"
    )
    return lines
