"""`timmx sweep`: many models to many formats."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from timmx.cli.completion import complete_model_name
from timmx.cli.several import TARGETS_PANEL, ToOption, end, requested, set_options
from timmx.contract import ExportRequest
from timmx.errors import ConfigurationError
from timmx.registry import option_specs
from timmx.sweep import OF_ONE_EXPORT, Keep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from timmx.sweep import Summary

_MODELS, _RUN, _RAY = "Models", "Run", "Ray"


class ByteCount(int):
    """A number of bytes, written as `12GB`."""

    @classmethod
    def parse(cls, text: str) -> ByteCount:
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMG]?)B?", text.strip(), re.IGNORECASE)
        if match is None:
            raise typer.BadParameter(f"{text!r} is not a size such as 12GB or 800MB")
        return cls(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[match[2].upper()])


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """Options that only `timmx sweep` has, or that have another meaning there."""

    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Timm names, patterns such as 'resnet*', hf-hub:OWNER/NAME, local-dir:FOLDER, and folders of "
            "checkpoints such as runs/.",
            autocompletion=complete_model_name,
        ),
    ] = None
    models_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--models",
            metavar="FILE",
            help="Read models from a file, one per line. Repeatable.",
            rich_help_panel=_MODELS,
        ),
    ] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            metavar="FILE.toml",
            help="Read models, options and targets from a file, as timmx export does; model may be a list.",
            rich_help_panel=_MODELS,
        ),
    ] = None
    to: ToOption = None
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for the journal, and one folder of files per model.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = None
    keep: Annotated[
        Keep,
        typer.Option(
            "--keep",
            help="Keep no files, files that pass, or also files that fail verification.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = Keep.PASSED
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Also measure accuracy on labeled images, as timmx eval does.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = None
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            help="At the end, also measure the latency of each file, one at a time, as timmx bench does.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = False
    storage: Annotated[
        str,
        typer.Option(
            "--storage",
            metavar="URL",
            help="Store the files at an fsspec URL, such as s3://BUCKET/FOLDER, not in the output folder.",
            rich_help_panel=TARGETS_PANEL,
        ),
    ] = ""
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue a sweep: run cells that are missing or have other options or versions.",
            rich_help_panel=_RUN,
        ),
    ] = False
    retry: Annotated[
        bool,
        typer.Option("--retry", help="With --resume, also repeat cells that failed.", rich_help_panel=_RUN),
    ] = False
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            help="Number of models to export at once. Default: 1, or as many as the Ray cluster has room for.",
            rich_help_panel=_RUN,
        ),
    ] = None
    limit_seconds: Annotated[
        float,
        typer.Option(
            "--limit-seconds",
            min=1,
            metavar="S",
            help="Time limit in seconds for each export, and for loading each model.",
            rich_help_panel=_RUN,
        ),
    ] = 600.0
    limit_memory: Annotated[
        ByteCount | None,
        typer.Option(
            "--limit-memory",
            parser=ByteCount.parse,
            metavar="SIZE",
            help="Limit of the resident memory of each export, such as 12GB. Default: no limit.",
            rich_help_panel=_RUN,
        ),
    ] = None
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Run on a Ray cluster: HOST:PORT of its head node, or auto for the one of this machine.",
            rich_help_panel=_RAY,
        ),
    ] = None
    ray_cpus: Annotated[
        int,
        typer.Option(
            "--ray-cpus", min=1, help="CPUs that Ray reserves for each model.", rich_help_panel=_RAY
        ),
    ] = 1
    ray_gpus: Annotated[
        float,
        typer.Option(
            "--ray-gpus",
            min=0,
            help="GPUs that Ray reserves for each model; below 1 it may be a fraction.",
            rich_help_panel=_RAY,
        ),
    ] = 0.0
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object per line: each cell, then the results.",
            rich_help_panel=_RUN,
        ),
    ] = False


def sweep_command() -> Callable[..., None]:
    """The command, with the options that all its exports share."""

    def sweep(verbose: bool = False, debug: bool = False, **values: Any) -> None:
        from timmx.sweep import text_report

        own = {name: values.pop(name) for name in option_specs(SweepOptions)}
        summary = _run(own, values, verbose or debug)
        end(
            summary.exit_code,
            json={"results": summary.to_dict()} if own["json"] else None,
            indent=None,
            lines=lambda: text_report(summary),
        )

    sweep.__doc__ = (
        "Export many models to several formats. timmx sweep report DIR prints the results of a sweep."
    )
    shared = [name for name in option_specs(ExportRequest) if name not in OF_ONE_EXPORT]
    set_options(sweep, SweepOptions, shared=shared)
    return sweep


def _run(own: Mapping[str, Any], options: Mapping[str, Any], verbose: bool) -> Summary:
    from timmx.cli.sweep_view import SweepView
    from timmx.cli.terminal import own_stream, reporting_by
    from timmx.report import this_command
    from timmx.sweep import Cluster, Limits, check_address, find_models, run_sweep

    files = list(own["models_file"] or ())
    wanted = requested(
        own["recipe"],
        models=own["models"] or (),
        targets=own["to"] or (),
        output=own["output"],
        options=options,
    )
    words = (
        () if files and not own["models"] else wanted.models
    )  # a file of models replaces those of the recipe
    targets, output, options = wanted.targets, wanted.output, wanted.options
    if output is None:
        raise ConfigurationError("no output folder is given", hint="add --output DIR")
    if own["storage"].startswith("memory:"):
        raise ConfigurationError(
            f"--storage {own['storage']} keeps files in the memory of a process that ends",
            hint="use a folder or a URL such as s3://BUCKET/FOLDER",
        )
    if own["ray_gpus"] > 1 and not own["ray_gpus"].is_integer():
        raise ConfigurationError(
            f"--ray-gpus {own['ray_gpus']:g} is neither an integer nor less than 1",
            hint="use 1, 2, ... or a fraction below 1",
        )
    if own["retry"] and not own["resume"]:
        raise ConfigurationError("--retry requires --resume", hint="add --resume")
    unused = [
        name for name in ("ray_cpus", "ray_gpus") if own[name] != option_specs(SweepOptions)[name].default
    ]
    if unused and own["ray"] is None:
        raise ConfigurationError(f"--{unused[0].replace('_', '-')} requires --ray", hint="add --ray ADDRESS")
    if own["ray"] is not None:
        check_address(own["ray"])
    continues = own["resume"] and not (words or files or targets)
    changed = [
        *options,
        *(
            name
            for name in ("data", "keep", "storage")
            if own[name] != option_specs(SweepOptions)[name].default
        ),
    ]
    if continues and changed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ConfigurationError(
            f"{flags} requires models: without them, --resume continues the last run with its options",
            hint="give the models and --to too, or leave it out",
        )
    with ExitStack() as stack:
        stdout = stack.enter_context(own_stream(sys.stdout, 1))
        views: list[SweepView] = []

        def make(stream: IO[str], verbose: bool) -> SweepView:
            views.append(SweepView(stream, verbose, lines_to=stdout if own["json"] else None))
            return views[0]

        stack.enter_context(reporting_by(make, verbose))
        models = () if continues else find_models(words, files, pretrained=bool(options.get("pretrained")))
        return run_sweep(
            models,
            targets,
            output.expanduser(),
            options=options,
            data=own["data"],
            keep=own["keep"],
            storage=own["storage"],
            limits=Limits(own["limit_seconds"], own["limit_memory"]),
            jobs=own["jobs"],
            bench=own["bench"],
            cluster=None
            if own["ray"] is None
            else Cluster(address=own["ray"], cpus=own["ray_cpus"], gpus=own["ray_gpus"]),
            resume=own["resume"],
            retry=own["retry"],
            command=this_command(),
            watcher=views[0],
        )
