"""The example of docs/tools.md: four formats at once, and every tool on the exported files."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from pathlib import Path

import forks
import pytest
from timmx.cli.application import app
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
FILES = ("digits.onnx", "digits.pt2", "digits.mlpackage", "digits.tflite")


def timmx(folder: Path, *words: str) -> str:
    """What a command prints in a folder."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def walk(export, process, digits, tmp_path_factory: pytest.TempPathFactory):
    """The folder in which the example's commands ran, and the output of each.

    Verification and `compare` use two samples of each class; `predict` and `eval` use all.
    """
    folder = tmp_path_factory.mktemp("walk")
    (folder / "examples").symlink_to(ROOT / "examples")
    (block,) = re.findall(
        r"^```\n(uv run timmx export .*?)^```$", (ROOT / "docs" / "tools.md").read_text("utf-8"), re.M | re.S
    )
    printed = {}
    for line in block.splitlines():
        words = shlex.split(line.removeprefix("uv run timmx "))
        if words[0] in ("export", "compare"):
            few = digits.removeprefix("local-dir:")
            words = [word.replace("examples/digits", few) for word in words]
        if words[0] in ("bench", "compare"):
            words += ["--seconds", "0.3"]
        printed[words[0]] = timmx(folder, *words)
    return folder, printed


def test_every_command_prints_its_result(walk):
    folder, printed = walk
    assert list(printed) == ["export", "inspect", "predict", "eval", "bench", "compare"]
    for name in FILES:
        assert name in printed["export"]
        assert name in printed["compare"]
    assert "bicubic" in printed["inspect"]
    assert "0.9" in printed["predict"]
    assert "99.6 %" in printed["eval"]
    assert "digits.tflite" in printed["bench"]
    assert (folder / "compare.html").stat().st_size > 100_000


def test_formats_agree_on_predictions(walk):
    folder, _ = walk
    answers = {}
    for name in FILES:
        words = ("predict", f"out/{name}", "examples/digits/samples/3", "--top-k", "10", "--json")
        answers[name] = {
            item["path"]: {guess["label"]: guess["probability"] for guess in item["predictions"]}
            for item in json.loads(timmx(folder, *words))["images"]
        }
    first = answers[FILES[0]]
    assert len(first) == 51
    for name in FILES[1:]:
        assert answers[name].keys() == first.keys()
        for path, expected in first.items():
            assert answers[name][path] == pytest.approx(expected, abs=0.01), (name, path)


def test_documented_python_runs(walk):
    folder, _ = walk
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/tools.md").read_text("utf-8"), re.M | re.S)
    code = code.replace('"digits.onnx"', '"out/digits.onnx"')

    done = forks.run([sys.executable, "-c", code], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "0.996" in done.stdout
