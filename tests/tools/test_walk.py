"""The example of docs/tools.md: four formats at once, and every tool on the exported files."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import timmx

ROOT = Path(__file__).resolve().parents[2]
FILES = ("digits.onnx", "digits.pt2", "digits.mlpackage", "digits.tflite")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory):
    """The folder in which the example's commands ran, and the output of each."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "examples").symlink_to(ROOT / "examples")
    (block,) = re.findall(
        r"^```\n(uv run timmx export .*?)^```$", (ROOT / "docs" / "tools.md").read_text("utf-8"), re.M | re.S
    )
    printed = {}
    for line in block.splitlines():
        words = shlex.split(line.removeprefix("uv run timmx "))
        if words[0] in ("bench", "compare"):
            words += ["--seconds", "0.3"]
        done = timmx(*words, cwd=folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        printed[words[0]] = done.stdout
    return folder, printed


def test_every_command_prints_its_result(process, walk):
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


def test_formats_agree_on_predictions(process, walk):
    folder, _ = walk
    answers = {}
    for name in FILES:
        done = timmx(
            "predict", f"out/{name}", "examples/digits/samples/3", "--top-k", "10", "--json", cwd=folder
        )
        assert done.returncode == 0, done.stderr
        answers[name] = {
            item["path"]: {guess["label"]: guess["probability"] for guess in item["predictions"]}
            for item in json.loads(done.stdout)["images"]
        }
    first = answers[FILES[0]]
    assert len(first) == 51
    for name in FILES[1:]:
        assert answers[name].keys() == first.keys()
        for path, expected in first.items():
            assert answers[name][path] == pytest.approx(expected, abs=0.01), (name, path)


def test_documented_python_runs(process, walk):
    folder, _ = walk
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/tools.md").read_text("utf-8"), re.M | re.S)
    code = code.replace('"digits.onnx"', '"out/digits.onnx"')

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0.996" in done.stdout
