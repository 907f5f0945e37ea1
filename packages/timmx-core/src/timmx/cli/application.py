"""The `timmx` command: its own commands, and one command per backend, imported only when it is run."""

from __future__ import annotations

import atexit
import contextlib
import copy
import gc
import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from timmx import registry
from timmx.base import shown, wait_without_spinning
from timmx.cli import commands
from timmx.cli.export import export_command
from timmx.cli.interrupts import keep_interrupts
from timmx.cli.output import (
    open_standard_streams,
    stdout_is_closed,
    write,
    write_error,
    write_json,
    write_traceback,
)
from timmx.errors import ConfigurationError, Terminated, TimmxError, error_dict, system_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.registry import BackendEntry

_FORMATS = "Formats"
_RUN_MODELS = (["bench"], ["compare"], ["eval"], ["predict"])
"""Commands that mostly run models, at the speed of their libraries' defaults."""
_UNREAD = 141
"""128 + SIGPIPE: the exit code that a shell gives to a program whose output pipe was closed."""


class TimmxGroup(TyperGroup):
    """Lists backends from their distributions' metadata; imports only the one that is run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.commands, *_backend_rows()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self.commands.get(cmd_name) or _backend_rows().get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if " ".join(args[:2]) == commands.SWEEP_REPORT:  # a command below one that takes names of models
            return commands.SWEEP_REPORT, self.commands[commands.SWEEP_REPORT], args[2:]
        if args[0] not in self.commands and _is_backend(args[0]):  # reached for shell completion
            return args[0], _backend_command(args[0]), args[1:]
        return super().resolve_command(ctx, args)

    def main(self, args: Any = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        completing = "_TIMMX_COMPLETE" in os.environ
        debug, as_json = "--debug" in args, "--json" in args
        try:
            _check_process()
            if registry.is_strict() and not completing and args[:1] not in (["backends"], ["doctor"]):
                registry.require_sound((*registry.entries(), *registry.unreadable()))
            if args and not completing and args[0] not in self.commands and _is_backend(args[0]):
                # Straight to the backend: parsing the group's own options first would import pydantic.
                command = _backend_command(args[0])
                with _ending_with_its_reader():
                    return command.main(args[1:], f"{prog_name or 'timmx'} {args[0]}", *rest, **extra)
            with _ending_with_its_reader():
                return super().main(args, prog_name, *rest, **extra)
        except Exception as exc:
            error = system_error(exc)
            if debug:
                write_traceback(exc)
            if isinstance(error, TimmxError):
                _say_error(error, "", as_json)
                sys.exit(error.exit_code)
            # an internal error: one line, and the traceback with --debug
            _say_error(error, "" if debug else " (--debug shows the traceback)", as_json)
            sys.exit(1)


app = typer.Typer(
    name="timmx",
    cls=TimmxGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Export timm models to deployment formats and verify each file against PyTorch.",
    epilog="Run timmx FORMAT --help for the options of a format, and timmx doctor to check the installation.",
)


def _show_version(value: bool) -> None:
    if value:
        from importlib_metadata import version

        write(f"timmx {version('timmx-core')}")
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
    """Run the command in this process."""
    open_standard_streams()
    signal.signal(signal.SIGTERM, _terminate)  # clean up, as after Ctrl-C
    keep_interrupts()
    if sys.argv[1:2] not in _RUN_MODELS:
        wait_without_spinning()
    # Python processes that libraries start do not import modules from the current folder either.
    os.environ["PYTHONSAFEPATH"] = "1"
    registry.skip_unreadable_entry_points()
    # Converters make millions of objects that stay: looking for cycles among them every 700 objects, and once more at
    # the end, takes a quarter of an export's processor time. Medians of 3 runs with both lines, without the second,
    # without the first, and without both: the digits to ONNX 10.4, 14.9, 14.2 and 16.4 s; to ONNX and .pt2 15.6, 19.4,
    # 17.7 and 20.0 s.
    gc.set_threshold(100_000, 20, 50)
    atexit.register(gc.freeze)
    app()


def _terminate(*_: object) -> None:
    raise Terminated(143)


def _check_process() -> None:
    """Check what every command needs.

    Raises:
        ConfigurationError: stdout is closed, or the current folder was deleted.
    """
    if stdout_is_closed():
        raise ConfigurationError(
            "stdout is closed, but results are written to it", hint="redirect it, for example with >/dev/null"
        )
    try:
        Path.cwd()
    except OSError as exc:
        raise ConfigurationError(
            f"the current folder cannot be used: {exc.strerror}", hint="change to another folder"
        ) from exc


def _is_backend(name: str) -> bool:
    """Whether a word names a backend: an installed one, one of ours, or `distribution:name`."""
    installed = {entry.name for entry in registry.entries()}
    return name.rpartition(":")[2] in installed or name in registry.known_backends()


def _backend_command(name: str) -> Any:
    """The backend's command; imports its plugin."""
    stub = typer.Typer(add_completion=False)
    stub.command(name)(export_command(registry.load(name)))
    return typer.main.get_command(stub)


@cache
def _backend_rows() -> dict[str, Any]:
    """A row of `timmx --help` for each installed backend, from metadata only."""
    stub_app = typer.Typer(add_completion=False)
    stub_app.command(rich_help_panel=_FORMATS)(lambda: None)
    stub = typer.main.get_command(stub_app)
    rows = {}
    for entry in registry.entries():
        row = copy.copy(stub)
        row.name = shown(entry.name)
        row.help = row.short_help = shown(_row_help(entry))
        rows[entry.name] = row
    return rows


def _row_help(entry: BackendEntry) -> str:
    if entry.state is registry.State.AVAILABLE:
        return entry.summary
    return f"({entry.state}) {entry.trouble}"


def _say_error(exc: Exception, suffix: str, as_json: bool) -> None:
    """The message and its hint on stderr; with `--json`, an object on stdout too."""
    error = error_dict(exc)
    with contextlib.suppress(BrokenPipeError):  # the exit code still reports the error
        write_error(f"{error['message']}{suffix}", error["hint"])
        if as_json:
            write_json({"error": error})
    _nobody_reads()


@contextlib.contextmanager
def _ending_with_its_reader() -> Iterator[None]:
    """Exit silently if the reader of the output pipe is gone, as after `head`; keep the exit code of an error."""
    stdout = sys.stdout
    try:
        yield
    except SystemExit as end:
        cause = end.__context__
        if not isinstance(cause, BrokenPipeError):
            if _nobody_reads() and not end.code:
                sys.exit(_UNREAD)
            raise
        # Typer 0.29 turns any broken pipe into exit code 1, and wraps stdout; rich 15 does so when it prints to one.
        if _nobody_reads(ask=sys.stdout is not stdout) or sys.stdout is stdout:
            sys.exit(_UNREAD)
        raise cause from None  # a pipe to another process: an internal error


def _nobody_reads(*, ask: bool = False) -> bool:
    """Whether stdout or stderr is a pipe without a reader; pending output to it is discarded.

    Args:
        ask: write a newline to stdout to find out. Python drops a long text that it could not write, and then a
            flush detects nothing.
    """
    unread = False
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None or stream.closed:
            continue
        try:
            stream.write("\n" if ask and stream is sys.__stdout__ else "")
            stream.flush()
        except BrokenPipeError:
            unread = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # Python writes the rest when it ends
            os.close(nowhere)
        except OSError:  # such as a full disk, which Python reports when it ends
            continue
    return unread
