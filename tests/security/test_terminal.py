"""Control characters of files and plugins never reach the terminal raw, in no message, table or JSON."""

from __future__ import annotations

import ast
import io
import json
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import timmx.cli
from timmx.cli import app
from timmx.cli.output import PlainRows, write, write_error, write_json, write_traceback
from timmx.cli.terminal import TerminalReporter
from timmx.errors import ConfigurationError
from typer.testing import CliRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI = Path(timmx.cli.__file__).parent
CONTROLS = "\x1b]0;owned\x07\r\b\x7f\x9b31m\x85\u202e\u2066\u200f\u061c\u2028\x00"
RAW = {character for character in CONTROLS if not character.isprintable()}


def raw_characters(text: str) -> set[str]:
    return RAW & set(text)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def on_a_terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    with redirect_stdout(terminal), redirect_stderr(terminal):
        yield terminal


@pytest.mark.parametrize("character", sorted(RAW))
def test_each_control_character_is_an_escape(character: str) -> None:
    name = f"a{character}b"
    with on_a_terminal() as screen:
        write(name)
        write_error(name, name)
        write_error(f"line\n{name}")
        write_json({name: name})
        write_traceback(ConfigurationError(name))
        PlainRows().write(f"{name},1\n")
    lines = screen.getvalue()
    assert not raw_characters(lines)
    assert lines.count("\\") >= 5


def test_json_stays_json() -> None:
    with on_a_terminal() as screen:
        write_json({"label": CONTROLS})
    assert json.loads(screen.getvalue()) == {"label": CONTROLS}


def test_text_without_control_characters_is_unchanged() -> None:
    with on_a_terminal() as screen:
        write("Grüße, 日本語\n  second line")
    assert screen.getvalue() == "Grüße, 日本語\n  second line\n"


def test_errors_are_one_line_and_short() -> None:
    with on_a_terminal() as screen:
        write_error("a\nb" + "c" * 100_000)
    assert screen.getvalue().count("\n") == 1
    assert len(screen.getvalue()) < 5000


@pytest.mark.parametrize("verbose", [True, False])
def test_progress_and_warnings_are_escaped(verbose: bool) -> None:
    terminal = Terminal()
    reporter = TerminalReporter(terminal, verbose)
    reporter.step(CONTROLS)
    reporter.advance(CONTROLS, 0.5)
    reporter.warn(CONTROLS)
    reporter.detail(CONTROLS)
    reporter.rows([CONTROLS])
    reporter.row(CONTROLS)
    reporter.step(CONTROLS)
    reporter.row_done(CONTROLS, failed=True)
    if reporter._progress is not None:
        shown = "".join(task.description for task in reporter._progress.tasks)
        assert "owned" in shown
        assert not raw_characters(shown)
    else:
        assert not raw_characters(terminal.getvalue())
    reporter.close()


def test_the_name_of_a_plugin_is_escaped_in_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    from timmx import registry
    from timmx.cli import application

    entry = registry.entries()[0]
    odd = replace(entry, name=f"x{CONTROLS}", summary=CONTROLS)
    monkeypatch.setattr(registry, "entries", lambda: [odd])
    application._backend_rows.cache_clear()
    try:
        (row,) = application._backend_rows().values()
    finally:
        application._backend_rows.cache_clear()
    assert not raw_characters(row.name + row.help)


def test_labels_and_names_of_a_file_are_escaped(exported_digits, tmp_path: Path, digits: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported_digits("onnx", dynamic_batch=True))
    entry = next(item for item in model.metadata_props if item.key == "timmx")
    metadata = json.loads(entry.value)
    metadata["labels"] = [f"{number}{CONTROLS}" for number in range(10)]
    metadata["model"]["name"] = metadata["model"]["license"] = CONTROLS
    metadata["versions"][f"x{CONTROLS}"] = CONTROLS
    metadata["format"]["x"] = CONTROLS
    entry.value = json.dumps(metadata)
    file = tmp_path / "a.onnx"
    onnx.save(model, file)
    image = next(Path(digits.removeprefix("local-dir:")).rglob("*.png"))
    for command in (
        ["inspect", file],
        ["inspect", file, "--json"],
        ["predict", file, image],
        ["predict", file, image, "--json"],
        ["inspect", file, "--snippet", "python"],
        ["compare", tmp_path],
        ["verify", file],
        ["eval", file, image.parent.parent],
    ):
        done = CliRunner().invoke(app, [str(word) for word in command])
        assert done.stdout + done.stderr
        assert not raw_characters(done.stdout + done.stderr), command


def test_commands_print_through_one_place() -> None:
    """A call of `print` or of a stream's `write` outside of these files could print a file's text raw."""
    for path in CLI.glob("*.py"):
        if path.name in ("output.py", "terminal.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("print", "sys.stdout.write", "typer.echo"), (
                    f"{path.name}:{node.lineno}"
                )
