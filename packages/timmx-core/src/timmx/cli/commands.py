"""The core's own commands: list, info, doctor, backends, new-backend. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from timmx.base import format_table
from timmx.cli.bench import bench
from timmx.cli.compare import compare
from timmx.cli.completion import complete_model_name
from timmx.cli.evaluate import evaluate
from timmx.cli.export_many import export_many_command
from timmx.cli.inspect import inspect
from timmx.cli.options import DebugOption, VerboseOption, with_model_options
from timmx.cli.output import write, write_error, write_json
from timmx.cli.predict import predict
from timmx.cli.sweep import sweep_command
from timmx.cli.sweep_report import sweep_report
from timmx.cli.verify import verify
from timmx.contract import JsonOption
from timmx.errors import BackendError

SWEEP_REPORT = "sweep report"


def register(app: typer.Typer) -> None:
    """Add the commands to the application, in the order of its help."""
    app.command("list")(list_models)
    app.command("info")(info)
    app.command("export")(export_many_command())
    app.command("sweep")(sweep_command())
    app.command(SWEEP_REPORT, hidden=True)(sweep_report)
    app.command("inspect")(inspect)
    app.command("verify")(with_model_options(verify))
    app.command("predict")(predict)
    app.command("eval")(with_model_options(evaluate))
    app.command("bench")(with_model_options(bench))
    app.command("compare")(with_model_options(compare))
    app.command("backends")(backends)
    app.command("doctor")(doctor)
    app.command("new-backend")(new_backend)


def list_models(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a model name, or a glob such as 'vit_*_224'.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="List only models with pretrained weights, with their tags.")
    ] = False,
    family: Annotated[
        str | None, typer.Option("--family", help="List only models of this timm module, such as resnet.")
    ] = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """List timm models."""
    from dataclasses import asdict

    from timmx.cli.terminal import working
    from timmx.errors import ConfigurationError
    from timmx.model import search

    with working(verbose):
        models = search(pattern, family=family, pretrained=pretrained)
    if as_json:
        write_json([asdict(model) for model in models], indent=None)
    elif not models:
        filters = [pattern, f"--family {family}" if family else "", "--pretrained" if pretrained else ""]
        raise ConfigurationError(
            f"no model matches {' '.join(filter(None, filters))}".rstrip(),
            hint="run timmx list without arguments to show all names",
        )
    for model in () if as_json else models:
        for tag in model.pretrained if pretrained else ("",):
            write(f"{model.name}.{tag}" if tag else model.name)


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A timm name, hf-hub:OWNER/NAME or local-dir:FOLDER.",
            autocompletion=complete_model_name,
        ),
    ],
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Show a model's size, cost, preprocessing and license, without loading weights."""
    from timmx.cli.terminal import working
    from timmx.model import model_info

    with working(verbose):
        details = model_info(model)
    if as_json:
        write_json(details.to_dict())
    else:
        write(_lines(details.rows()))


def backends(as_json: JsonOption = False, verbose: VerboseOption = False, debug: DebugOption = False) -> None:
    """List installed backends and their state. Each is checked in a separate process."""
    from dataclasses import asdict

    from timmx.cli.terminal import working
    from timmx.registry import is_strict, known_backends, probe_backends, require_sound

    with working(verbose):
        entries = probe_backends()
    if as_json:
        write_json([asdict(entry) for entry in entries])
    elif not entries:
        ours = ", ".join(facts["distribution"] for facts in known_backends().values())
        write(
            f"No backend is installed. Available: {ours}, and third-party packages. Run: uv pip install NAME"
        )
    else:
        _print_backends(entries)
    if is_strict():
        try:
            require_sound(entries)
        except BackendError as exc:  # the result is on stdout already
            write_error(exc.message, exc.hint)
            raise typer.Exit(exc.exit_code) from exc


def doctor(as_json: JsonOption = False, verbose: VerboseOption = False, debug: DebugOption = False) -> None:
    """Check the installation and suggest fixes. Exits with 2 if there are problems."""
    from timmx.cli.terminal import working
    from timmx.registry import examine

    with working(verbose):
        report = examine()
    if as_json:
        write_json(report.to_dict())
    else:
        write(_lines(list(report.versions.items())))
        _print_backends(report.backends)
        for entry in report.backends:
            if entry.limits:
                write(f"note: {entry.selector}: {entry.limits}")
        for problem in report.problems:
            write(f"problem: {problem.message}\n    fix: {problem.fix}")
        if not report.problems:
            write("No problems found.")
    if report.problems:
        raise typer.Exit(2)


def new_backend(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Command name: lower-case words joined by hyphens. Default: derived from --name.",
            show_default=False,
        ),
    ] = None,
    suffix: Annotated[
        str, typer.Option("--suffix", metavar="SUFFIX", help="File suffix of the format. Default: .NAME.")
    ] = "",
    title: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="TEXT",
            help="Format name in help, class names and README, such as OpenVINO. Default: NAME.",
        ),
    ] = "",
    companions: Annotated[
        list[str] | None,
        typer.Option(
            "--companion", metavar="SUFFIX", help="Suffix of a second file next to each artifact. Repeatable."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Folder to create. Default: timmx-NAME.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Create a project for a new backend, ready to test."""
    from timmx.cli.new_backend import NewBackend, command_name, write_project

    name = command_name(title) if name is None else name
    new = NewBackend(name=name, title=title, suffix=suffix, companions=tuple(companions or ()))
    project = write_project(new, folder or Path(f"timmx-{name}"))
    if as_json:
        write_json(project.to_dict())
        return
    write(project.folder)
    for file in project.files:
        write(f"  {file}")
    write("Next, before you edit the places marked `Replace this`:")
    for command in project.next_commands:
        write(f"  {command}")


def _lines(rows: list[tuple[str, Any]]) -> str:
    return "\n".join(format_table(rows, left=(0, 1)))


def _print_backends(entries: Any) -> None:
    rows = [("backend", "state", "distribution", "version", "contract")]
    for entry in entries:
        contract = "" if entry.contract is None else str(entry.contract)
        rows.append((entry.name, str(entry.state), entry.distribution, entry.version, contract))
    write("\n".join(format_table(rows, left=range(5))))
    for entry in entries:
        if entry.reason:
            write(f"{entry.selector}: {entry.trouble}")
