"""The `timmx` command: its own commands, and one command a backend, imported only when it is run."""

from __future__ import annotations

import atexit
import copy
import gc
import json
import os
import signal
import sys
import traceback
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from timmx import registry
from timmx.cli import commands
from timmx.cli.export import export_command
from timmx.cli.interrupts import keep_interrupts
from timmx.errors import TimmxError, VerificationError

if TYPE_CHECKING:
    from timmx.registry import BackendEntry

_FORMATS = "Formats"


class TimmxGroup(TyperGroup):
    """Lists backends by their distributions' metadata; imports the one that is run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.commands, *_backend_rows()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self.commands.get(cmd_name) or _backend_rows().get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and _is_backend(args[0]):  # reached for shell completion
            return args[0], _backend_command(args[0]), args[1:]
        return super().resolve_command(ctx, args)

    def main(self, args: Any = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        completing = "_TIMMX_COMPLETE" in os.environ
        debug, as_json = "--debug" in args, "--json" in args
        try:
            if registry.is_strict() and not completing and args[:1] not in (["backends"], ["doctor"]):
                registry.require_sound(registry.entries())
            if args and not completing and args[0] not in self.commands and _is_backend(args[0]):
                # Straight to the backend: parsing the group's own options first would import pydantic.
                command = _backend_command(args[0])
                return command.main(args[1:], f"{prog_name or 'timmx'} {args[0]}", *rest, **extra)
            return super().main(args, prog_name, *rest, **extra)
        except TimmxError as exc:
            if debug:
                traceback.print_exc()
            _say_error(exc, str(exc), as_json)
            sys.exit(exc.exit_code)
        except Exception as exc:  # a defect: one line, and the whole story with --debug
            if debug:
                traceback.print_exc()
            said = " ".join(str(exc).split())
            _say_error(
                exc,
                f"This is a defect in timmx or in a library below it: {type(exc).__name__}: {said[:500]}"
                + "".join(f" ({note})" for note in getattr(exc, "__notes__", ()))
                + ("" if debug else " (--debug shows the traceback)"),
                as_json,
            )
            sys.exit(1)


app = typer.Typer(
    name="timmx",
    cls=TimmxGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Take a timm image model to the runtime it will live in, proven equal to the model.",
    epilog="timmx FORMAT --help shows a format's options. timmx doctor says what this machine can do.",
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib_metadata import version

        print(f"timmx {version('timmx-core')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


commands.register(app)


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as after Ctrl-C, nothing is left behind
    keep_interrupts()
    # Converters make millions of objects that stay. Looking for cycles among them every 700 took a sixth of an export's
    # time (resnet18 to four formats: 25.6 s of processor time, 21.5 s so), and the peak of memory is the same.
    gc.set_threshold(100_000, 20, 50)
    atexit.register(gc.freeze)  # nor is it worth 2.5 s to look for cycles once more in a process that ends
    app()


def _is_backend(name: str) -> bool:
    """Whether a word can only mean a backend: an installed one, one of ours, or `distribution:name`."""
    installed = {entry.name for entry in registry.entries()}
    return name.rpartition(":")[2] in installed or name in registry.known_backends()


def _backend_command(name: str) -> Any:
    """The backend's command, its plugin imported."""
    stub = typer.Typer(add_completion=False)
    stub.command(name)(export_command(registry.load(name)))
    return typer.main.get_command(stub)


@cache
def _backend_rows() -> dict[str, Any]:
    """A row of `timmx --help` for each installed backend, made of metadata alone."""
    stub_app = typer.Typer(add_completion=False)
    stub_app.command(rich_help_panel=_FORMATS)(lambda: None)
    stub = typer.main.get_command(stub_app)
    rows = {}
    for entry in registry.entries():
        row = copy.copy(stub)
        row.name = entry.name
        row.help = row.short_help = _row_help(entry)
        rows[entry.name] = row
    return rows


def _row_help(entry: BackendEntry) -> str:
    if entry.state is registry.State.AVAILABLE:
        return entry.summary
    return f"({entry.state}) {entry.reason} {entry.mend}"


def _say_error(exc: Exception, message: str, as_json: bool) -> None:
    """The message on stderr; with `--json`, an object on stdout too."""
    print(f"error: {message}", file=sys.stderr)
    if as_json:
        error: dict[str, Any] = {"type": type(exc).__name__, "message": message}
        if isinstance(exc, VerificationError) and exc.report:
            error["verification"] = exc.report.to_dict()
        print(json.dumps({"error": error}, indent=2))
