"""Everything that a person reads is plain technical English: phrases that are not are refused, by kind of text.

AGENTS.md has the vocabulary. This file and AGENTS.md are exempt.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent

_ORDINARY = "longer|more|less|other|need|such|one|fewer"

EVERYWHERE = {
    r"mend(s|ed|ing)?": "fix, hint, how to fix it",
    r"anew": "again, re-export, retrace",
    r"made (pictures?|images?|inputs?|samples?)": "synthetic images",
    r"whole (number|pixel)s?": "integer",
    r"beside": "compared with, against, next to, in addition to",
    r"(is|are|was|were) told": "is reported, shows",
    r"tells?": "reports, shows, says",
    r"open (batch|in the batch)( size)?": "dynamic batch size",
    r"batch (size )?((is|may be|stays) )?open": "dynamic batch size",
    r"edges": "inputs and outputs, I/O types",
    r"one an? (channel|line|class|file|core|image|row|step|operation|option|axis|side|family|format)": "one per ...",
    rf"(?<!there )(is|are|was|were) no (?!({_ORDINARY})\b)[a-z]+": "is not a ..., has no ...",
    r"reads? (most |all )?(images )?(right|wrong|as what)": "classified correctly, accuracy",
    r"where nothing is given": "by default",
    r"in trouble": "failed, is invalid, cannot be read",
    r"what it is worth": "the file's size, the model's accuracy",
    r"a defect in timmx|(in )?a library below it": "internal error, a dependency",
    r"calls? (classes|them|it) otherwise": "uses other names",
    r"written small": "lower-case",
    r"poor witness(es)?": "say what is wrong with random weights",
    r"for trying out": "for smoke tests",
    r"nothing to stand": "nothing to compare with",
    r"as a person (would )?(reads?|names?|types?)": "as the user ...",
    r"side by side": "compare, next to each other",
    r"end what else runs": "stop other processes",
    r"nobody (knows|says|asks|could|needs)": "unknown, not stated",
    r"the likeliest": "the most likely",
    r"strangers?": "untrusted file, untrusted folder",
    r"averaged weights": "EMA weights",
    r"class numbers?": "class index",
    r"hub ids?": "Hugging Face model id",
    r"(is|are) in the way": "exists",
    r"and was given": "but got",
    r"proven equal": "verified against",
    r"(labell|modell|cancell)(ed|ing)": "American spelling",
    r"(initial|normal|optim|organ|(re)?parameter|quant|recogn|serial|standard|summar|synchron)"
    r"is(e[ds]?|ing|ations?)": "American spelling",
    r"artefacts?|behaviours?|centres?|colours?|grey|licences?|neighbour(s|ing)?": "American spelling",
}
"""Exact phrases, as regular expressions of whole words, and what is written instead."""

DIRECTORY = {r"director(y|ies)": "folder"}
CODE = EVERYWHERE
HELP = EVERYWHERE | DIRECTORY
DOCUMENTS = EVERYWHERE
NAMES = EVERYWHERE | DIRECTORY | {r"told": "reported", r"(is|are) no": "is not a"}
"""Phrases in the names of tests, with spaces for underscores."""


@cache
def _pattern(*phrases: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{'|'.join(phrases)})(?![\w-])", re.IGNORECASE)


def phrases_in(text: str, phrases: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The refused phrases of a text, each with what to write instead."""
    text = re.sub(r"\s+", " ", text)
    for found in _pattern(*phrases).finditer(text):
        instead = next(
            instead for phrase, instead in phrases.items() if _pattern(phrase).match(text, found.start())
        )
        yield text[max(0, found.start() - 30) : found.end() + 30], instead


@cache
def tracked(*patterns: str) -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, text=True, capture_output=True, check=True
    )
    return tuple(ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file())


def documents() -> list[Path]:
    """Texts, and settings and pages with comments."""
    patterns = (
        "*.md",
        "*.toml",
        "*.yml",
        "*.yaml",
        "*.txt",
        "*.css",
        "*.js",
        "*.html",
        "*.template",
        ".ci/run",
    )
    return [path for path in tracked(*patterns) if path.name != "AGENTS.md"]


def sources() -> list[Path]:
    return [path for path in tracked("*.py", "*.pyi", "*.py.template") if path != Path(__file__)]


def test_documents_are_in_plain_language():
    refused = []
    for path in documents():
        found = phrases_in(path.read_text("utf-8"), DOCUMENTS)
        refused += [f"{path}: {text} -> {instead}" for text, instead in found]
    assert refused == []


def test_messages_docstrings_and_comments_are_in_plain_language():
    refused = [
        f"{path}:{line}: {found} -> {instead}"
        for path in sources()
        for line, text in texts(path.read_text("utf-8"))
        for found, instead in phrases_in(text, CODE)
    ]
    assert refused == []


def test_help_is_in_plain_language():
    from timmx.cli.application import app
    from timmx.registry import entries
    from typer.testing import CliRunner

    commands = [[], *([command.name or command.callback.__name__] for command in app.registered_commands)]
    commands += [[entry.name] for entry in entries()]
    for command in commands:
        shown = CliRunner().invoke(
            app, [*command, "--help"], env={"COLUMNS": "5000", "NO_COLOR": "1", "TERM": "dumb"}
        )
        assert shown.exit_code == 0, shown.output
        assert list(phrases_in(shown.stdout, HELP)) == [], f"timmx {' '.join(command)} --help"


def test_test_names_are_facts_in_plain_words():
    refused = [
        f"{path}:{node.lineno}: {node.name} -> {instead}"
        for path in tracked("tests/**/test_*.py", "tests/test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for _, instead in phrases_in(node.name.replace("_", " "), NAMES)
    ]
    assert refused == []


def test_a_planted_phrase_is_found():
    planted = '"""The\n    batch size is open."""\n# a whole\n# number\nraise ValueError(f"{x} is no size: mend it")\n'
    found = [instead for _, text in texts(planted) for _, instead in phrases_in(text, CODE)]
    assert len(found) == 4


@pytest.mark.parametrize(
    "phrase",
    [
        "Take a timm image model to the runtime it will live in, proven equal to the model.",
        "Leave the batch size open.",
        "Calibrate on made pictures, which costs accuracy. For trying out.",
        "Nothing needs a mend.",
        "This is a defect in timmx or in a library below it",
        "Where the data calls classes otherwise: its names, in the model's order",
        "--against has nothing to stand beside",
        "reads most images right",
        "End what else runs",
        "What resnet50, the most accurate, reads as what",
    ],
)
def test_phrase_is_refused_in_every_kind_of_text(phrase):
    assert all(list(phrases_in(phrase, kind)) for kind in (CODE, HELP, DOCUMENTS, NAMES))


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Every string and comment of a Python file, with its line; comments that follow each other are one text."""
    comments: list[tuple[int, str]] = []
    last = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                line, text = token.start[0], token.string.lstrip("# ")
                if comments and line == last + 1:
                    comments[-1] = (comments[-1][0], f"{comments[-1][1]} {text}")
                else:
                    comments.append((line, text))
                last = line
    except (tokenize.TokenError, IndentationError):  # a template
        yield 1, source
        return
    yield from comments
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a template
        yield 1, source
        return
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value
