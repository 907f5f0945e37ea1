"""Terminals that cannot show every character: the encoding stays the user's, and what does not fit is escaped."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[1] / "examples" / "digits" / "samples"
NAMES = ["zero", "one", "two", "鹿", "four", "five", "six", "seven", "Ōght", "é"]

pytestmark = pytest.mark.usefixtures("process")


@pytest.fixture(scope="module")
def file(exported_digits, tmp_path_factory) -> Path:
    """The digits model with class names in other scripts."""
    import onnx

    proto = onnx.load(exported_digits("onnx", dynamic_batch=True))
    (entry,) = (item for item in proto.metadata_props if '"schema"' in item.value)
    entry.value = json.dumps(json.loads(entry.value) | {"labels": NAMES})
    path = tmp_path_factory.mktemp("names") / "digits.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture(params=["cp1252", "C"])
def timmx(request, process, tmp_path):
    """Runs timmx in a terminal with this encoding: returns its result, with output as bytes, and the escapes."""
    environment = {
        key: value for key, value in os.environ.items() if key not in ("LC_ALL", "LC_CTYPE", "LANG")
    }
    environment |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment |= {"PYTHONIOENCODING": "cp1252"} if request.param == "cp1252" else {"LANG": "C"}
    encoding = "cp1252" if request.param == "cp1252" else "ascii"

    def run(*words):
        command = [sys.executable, "-m", "timmx", *map(str, words)]
        return process(command, text=False, env=environment, cwd=tmp_path)

    return run, lambda text: text.encode(encoding, "backslashreplace")


def sample(digit: int) -> Path:
    return sorted((SAMPLES / str(digit)).glob("*.png"))[1]


def test_class_names_that_do_not_fit_are_escaped(timmx, file):
    run, escaped = timmx
    digits = (3, 8, 9)
    result = run("predict", file, *map(sample, digits), "--top-k", 1)
    assert result.returncode == 0, result.stderr
    for digit in digits:
        assert escaped(NAMES[digit]) in result.stdout
    result = run("predict", file, sample(3), "--top-k", 1, "--csv")
    assert escaped(NAMES[3]) in result.stdout
    result = run("inspect", file)
    assert result.returncode == 0, result.stderr
    assert escaped(NAMES[3]) in result.stdout
    result = run("predict", file, "鹿.png")
    assert result.returncode == 2
    assert b"error: " in result.stderr
    assert b"Traceback" not in result.stderr


def test_files_are_utf_8_whatever_the_terminal_is(timmx, file, tmp_path):
    run, escaped = timmx
    (tmp_path / "data.csv").write_text(
        f"path,label\n{sample(3)},鹿\n{sample(8)},Ōght\n{sample(7)},鹿\n", encoding="utf-8"
    )
    outputs = ("--csv", "out.csv", "--report", "out.html", "--resume", "journal")
    result = run("eval", file, "--data", "data.csv", *outputs)
    assert result.returncode == 0, result.stderr
    assert escaped("鹿") in result.stdout
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text("utf-8-sig").splitlines()))
    assert [row["label"] for row in rows] == ["鹿", "Ōght", "鹿"]
    assert [row["read"] for row in rows] == ["鹿", "Ōght", "seven"]
    assert "鹿" in (tmp_path / "out.html").read_text("utf-8")
    json.loads((tmp_path / "journal").read_text("utf-8").splitlines()[0])
    result = run("eval", file, "--data", "data.csv", "--resume", "journal")
    assert b"3 predictions are from the journal" in result.stdout
