"""The documents are correct: commands and options exist, and examples print what is shown."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest
from documents import CONSOLE, DOCS, DOCUMENTS, ROOT, blocks, listed_under, read_blocks, without_blocks

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text("utf-8")
METADATA = (DOCS / "metadata.md").read_text("utf-8")
COMMANDS = sorted(
    {
        command.removeprefix("uv run ")
        for document in DOCUMENTS
        for block in read_blocks(document.read_text("utf-8"))
        if block.language in ("", CONSOLE)
        for command in block.commands
        if command.removeprefix("uv run ").startswith("timmx ")
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_and_their_options_exist(command: str):
    _, name, *arguments = shlex.split(command.split(" > ")[0])
    if arguments[:1] == ["report"]:
        name, arguments = f"{name} report", arguments[1:]
    shown = help_of(name)
    for argument in arguments:
        if argument.startswith("-"):
            assert re.search(rf"(?<![\w-]){argument}(?![\w-])", shown), f"timmx {name} has no {argument}"


def test_options_that_the_documents_name_exist():
    """Every `--option` in running text is one of timmx's, or of the tools that are named with it."""
    known = " ".join(
        help_of(name)
        for name in (
            *(
                "",
                "coreml",
                "executorch",
                "litert",
                "ncnn",
                "onnx",
                "openvino",
                "tensorrt",
                "torch-export",
                "list",
                "info",
                "doctor",
                "new-backend",
            ),
            *("bench", "compare", "eval", "export", "inspect", "predict", "sweep", "sweep report", "verify"),
        )
    )
    for document in DOCUMENTS:
        for code in re.findall(r"`([^`]+)`", without_blocks(document.read_text("utf-8"))):
            if code.startswith(("uv", "mypy", "bash")):
                continue
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
                assert re.search(rf"{option}(?![\w-])", known), f"{document.name} names {option}"


def test_linked_files_exist():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", without_blocks(document.read_text("utf-8"))):
            link = re.sub(r"^https://github.com/timmx/timmx/(blob|tree)/main", str(ROOT), link)
            if "://" not in link:
                assert (document.parent / link).exists(), f"{document.name} links to {link}"


def test_named_files_exist():
    """Paths in docs/architecture.md are where it says that they are."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    core = ROOT / "packages" / "timmx-core" / "src" / "timmx"
    backends = [path for path in ROOT.glob("packages/*/src/*") if path != core]
    rooms = [path for backend in backends for path in backend.rglob("*") if path.is_dir()]
    for name in re.findall(r"`([\w./]+\.(?:py|json))`", text):
        places = [core, core.parent, ROOT, *backends, *(path.parent for path in backends), *rooms]
        assert any((place / name).is_file() for place in places), f"there is no {name}"


def test_the_gates_run_what_the_readme_says():
    gates = (ROOT / ".ci" / "run").read_text("utf-8")
    (first_steps,) = [block for block in blocks(README, "") if "pip install uv" in block]
    assert first_steps.splitlines()[1:] == [
        "uv run timmx onnx local-dir:examples/digits -o digits.onnx",
        "uv run pytest",
    ]
    assert re.search(r"^uv run pytest\b", gates, re.MULTILINE)
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(
        r"^\| (?:format|lint|types|documentation|tests, \w+ tier) \| `(.+)` \|$", contributing, re.MULTILINE
    )
    assert len(rows) == 6
    for command in rows:
        assert re.search(rf"^(?:\w+=\S+ )*{re.escape(command)}(?!\S)", gates, re.MULTILINE), command


def test_workflow_and_contributing_name_every_folder_of_tests():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (formats,) = re.findall(r"^ +tests: \[(.+)\]$", workflow, re.MULTILINE)
    of_formats = set(formats.split(", "))
    folders = {path.name for path in (ROOT / "tests").iterdir() if [*path.rglob("test_*.py")]}
    shared = set(re.findall(r"tests/(\w+)(?= )", workflow))
    assert folders == of_formats | (folders & shared)
    for name in folders - of_formats - {"examples"}:
        assert re.search(rf"`[^`]*tests/{name}\b[^`]*`", contributing), name


def test_readme_names_every_package_and_format():
    for package in ROOT.glob("packages/timmx-*"):
        assert f"]({package.relative_to(ROOT)})" in README or package.name == "timmx-core"


def test_every_command_is_described_from_its_help():
    """Commands of the core on the page of the command line, each format on a page of its own."""
    from timmx.cli.application import app
    from timmx.registry import entries

    described = {
        page.stem: re.findall(r"^```\{command\} (.+)$", page.read_text("utf-8"), re.MULTILINE)
        for page in (DOCS / "cli.md", *listed_under("Formats"))
    }
    ours = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert sorted(described.pop("cli")) == sorted(ours)
    assert sorted(name for names in described.values() for name in names) == sorted(
        entry.name for entry in entries()
    )


@pytest.mark.parametrize("page", listed_under("Formats"), ids=lambda page: page.stem)
def test_each_format_says_what_is_proven_its_limits_and_figures(page: Path):
    titles = re.findall(r"^## (.+)$", page.read_text("utf-8"), re.MULTILINE)
    assert {"What is proven", "Options", "Limits", "Figures"} <= set(titles)


def test_floors_are_the_documented_ones():
    from timmx.verification.comparison import FLOORS_DB

    rows = re.findall(r"^\| (`.+) \| (\d+) dB \|$", (ROOT / "docs/verification.md").read_text(), re.MULTILINE)
    documented = {name: float(floor) for names, floor in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert documented == {str(precision): floor for precision, floor in FLOORS_DB.items()}


@pytest.mark.slow
def test_python_examples_run_and_metadata_is_as_documented(tmp_path: Path):
    """README's Python, the other format, and everything that docs/metadata.md shows, in one process."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (use,) = blocks(README, "python")
    hash_of_weights, from_onnx, from_pt2, from_zip, *_ = blocks(METADATA, "python")
    program = f"""
import json, timmx
{use}
assert logits.shape == (3, 10)
assert result.verification.status == "verified"
timmx.export("onnx", "local-dir:examples/digits", force=True)
{hash_of_weights}
{from_onnx}
print(json.dumps(metadata))
timmx.export("torch-export", "local-dir:examples/digits", dynamic_batch=True)
{from_pt2}
print(json.dumps(metadata))
{from_zip}
print(json.dumps(metadata))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *_, digest, onnx, pt2, zipped = done.stdout.splitlines()
    (example,) = map(json.loads, blocks(METADATA, "json"))
    shown = json.loads(onnx)
    assert digest == shown["model"]["weights_sha256"]
    assert shown.pop("versions").keys() == example.pop("versions").keys()
    assert shown == example
    assert pt2 == zipped
    assert keys(json.loads(pt2)) - keys(shown) <= {"batch.dynamic", "format.strict", *versions(pt2)}
    documented = set(re.findall(r"`([\w.\[\]]+)`", "".join(re.findall(r"^\| (`.+?) \|", METADATA, re.M))))
    for key in keys(shown) - {"batch.size", "versions"}:
        assert any(key == name or key.startswith(name + ".") for name in documented), f"{key} has no row"


def keys(value: dict, prefix: str = "") -> set[str]:
    """Every key of nested objects, joined by dots; those in a list of objects behind `[]`."""
    found = set()
    for key, item in value.items():
        if isinstance(item, dict):
            found |= keys(item, f"{prefix}{key}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            found |= keys(item[0], f"{prefix}{key}[].")
        else:
            found.add(prefix + key)
    return found


def versions(metadata: str) -> set[str]:
    return {f"versions.{name}" for name in json.loads(metadata)["versions"]}


@cache
def help_of(command: str) -> str:
    """`timmx COMMAND --help`, without colors and in one long line each."""
    from timmx.cli.application import app
    from typer.testing import CliRunner

    arguments = [*command.split(), "--help"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0, f"timmx {command} does not exist"
    return result.stdout
