"""Runs the commands and programs of a page of the documentation in a folder, in the order of the page."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import forks
from documents import read_blocks

if TYPE_CHECKING:
    from pathlib import Path

    from documents import Block

NOT_RUN = ("uv pip install", "pip install", "uv run pytest", "uv sync")
"""Commands that change the environment, or take minutes; `test_docs.py` checks what they name."""
QUICK = {"bench": ["--seconds", "0.3"], "compare": ["--seconds", "0.3"]}
"""Options that tests add, for time."""


@dataclass
class Walk:
    """A page that was followed.

    Attributes:
        folder: where its commands ran.
        printed: what each command printed on stdout, in order.
    """

    folder: Path
    printed: dict[str, str] = field(default_factory=dict)


def follow(page: Path, folder: Path) -> Walk:
    """Run the page's commands and programs, and compare what they print with what the page shows.

    - Blocks without a language are commands, which run.
    - A `text` block right after one is its output, up to numbers.
    - Another block right after one that ends in `--snippet` is its output, exactly.
    - A block after a file's name and a colon is saved as that file.
    - Other Python blocks run.
    """
    walk, last, is_snippet = Walk(folder), "", False
    for block in read_blocks(page.read_text("utf-8")):
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(f"{block.text}\n", "utf-8")
        if block.language == "":
            last = ""
            for command in block.commands:
                last = walk.printed[command] = run(command, folder)
                is_snippet = "--snippet" in command and ">" not in command
        elif block.language == "text" and block.follows:
            assert without_numbers(last) == without_numbers(block.text), f"{page.name}: {last}"
        elif is_snippet and block.language in ("kotlin", "swift", "python", "js", "cpp"):
            assert last.strip() == block.text.strip(), f"{page.name} shows other code: {last}"
            is_snippet = False
        elif block.language == "python" and not block.file:
            done = forks.run([sys.executable, "-c", block.text], cwd=folder)
            assert done.returncode == 0, f"{page.name}: {done.stderr}"
            walk.printed[block.text] = done.stdout
    return walk


def run(command: str, folder: Path) -> str:
    """What a command prints in a folder."""
    if command.startswith(NOT_RUN):
        return ""
    line, _, target = command.removeprefix("uv run ").partition(" > ")
    words = shlex.split(line)
    runner = {"timmx": timmx, "python": python}.get(words[0], program)
    printed = runner(words, folder)
    if target:
        (folder / target).write_text(printed, "utf-8")
    return printed


def timmx(words: list[str], folder: Path) -> str:
    from timmx.cli.application import app
    from typer.testing import CliRunner

    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, [*words[1:], *QUICK.get(words[1], [])], catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def python(words: list[str], folder: Path) -> str:
    script, *arguments = words[1:]
    code = f"import runpy, sys; sys.argv = {[script, *arguments]!r}; runpy.run_path({script!r}, run_name='__main__')"
    done = forks.run([sys.executable, "-c", code], cwd=folder)
    assert done.returncode == 0, f"{words}\n{done.stderr}"
    return done.stdout


def program(words: list[str], folder: Path) -> str:
    assert words[0] in ("cp", "mkdir"), f"tests do not run {words[0]}: use a console block"
    done = subprocess.run(words, cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stderr}"
    return done.stdout


def without_numbers(text: str) -> str:
    return " ".join(re.sub(r"\d[\d.,e+-]*", "0", text).split())


def check_syntax(block: Block, folder: Path) -> None:
    """Check the syntax of a block in a language that tests do not run."""
    import tree_sitter
    import tree_sitter_cpp
    import tree_sitter_kotlin
    import tree_sitter_swift

    grammars = {"cpp": tree_sitter_cpp, "kotlin": tree_sitter_kotlin, "swift": tree_sitter_swift}
    if block.language in grammars:
        parser = tree_sitter.Parser(tree_sitter.Language(grammars[block.language].language()))
        assert not parser.parse(block.text.encode()).root_node.has_error, block.text
    elif block.language == "js" and shutil.which("node"):
        done = subprocess.run(
            ["node", "--input-type=module", "--check"], input=block.text, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "python":
        compile(block.text, "block.py", "exec")
