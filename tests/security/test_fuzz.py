"""Damaged files of each format end as an answer or as one error line, within limits of time and memory.

`pytest -m slow tests/security/test_fuzz.py` opens 500 damaged copies of a file per format; docs/security.md has the
result.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from security_fuzz import fuzz
from security_mutations import companions
from security_server import RESIDENT_BYTES, Server

FORMATS = (
    "onnx",
    "onnx and data",
    "tflite",
    "mlpackage",
    "mlmodel",
    "pt2",
    "xml",
    "pte",
    "pte and ptd",
    "engine",
)
BACKENDS = {
    "onnx": "onnx",
    "tflite": "litert",
    "mlpackage": "coreml",
    "pt2": "torch-export",
    "xml": "openvino",
    "pte": "executorch",
}
SHORT, FULL = 8, 500
"""Numbers of damaged copies."""


@pytest.fixture(scope="module")
def server(process):
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def image(digits):
    return next(Path(digits.removeprefix("local-dir:"), "samples").rglob("*.png"))


@pytest.fixture(scope="module")
def artifact(exported_digits, tmp_path_factory):
    """The file of a format, in a folder of its own with the files that belong to it."""

    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("artifact")
        if kind == "onnx and data":
            return _copy(exported_digits("onnx", external_data=True), folder)
        if kind == "engine":
            return _engine(exported_digits("onnx"), folder)
        if kind == "mlmodel":
            return _copy(exported_digits("coreml", convert_to="neuralnetwork"), folder / "digits.mlmodel")
        if kind == "pte and ptd":
            return _copy(exported_digits("executorch", external_weights=True), folder)
        return _copy(exported_digits(BACKENDS[kind]), folder)

    return make


def _copy(path: Path, target: Path) -> Path:
    """Copy an artifact with its companions; keep its name, or take the given one."""
    target = target / path.name if target.is_dir() else target
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copyfile(path, target)
    for companion in companions(path):
        shutil.copyfile(companion, target.with_name(companion.name))
    return target


def _engine(onnx: Path, folder: Path) -> Path:
    """A file that looks like an engine, with the JSON of timmx: without TensorRT, that is what timmx reads."""
    from timmx_onnx import read_metadata

    plan = b"\0\1ftrt" + bytes(5000)
    path = folder / "digits.engine"
    path.write_bytes(plan)
    facts = {
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "onnx_sha256": "0" * 64,
        "float32_nodes": [],
        "tensorrt": "10.16.0",
        "gpu": "NVIDIA L4",
        "compute_capability": "8.9",
        "platform": "Linux x86_64",
        "workspace_bytes": None,
        "version_compatible": False,
        "hardware_compat": "none",
        "rebuild": "timmx tensorrt digits",
    }
    path.with_name("digits.engine.json").write_text(json.dumps({**read_metadata(onnx), "engine": facts}))
    return path


@pytest.mark.parametrize(
    "kind", [kind for kind in FORMATS if kind != "pte and ptd"]
)  # its .pte is like the other
def test_damaged_files_end_in_an_answer_or_an_error(kind, artifact, server, image, tmp_path):
    _check(fuzz(server, artifact(kind), image, tmp_path, range(SHORT)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_many_damaged_files_end_in_an_answer_or_an_error(kind, artifact, server, image, tmp_path):
    outcome = fuzz(server, artifact(kind), image, tmp_path, range(FULL))
    print(kind, outcome)
    _check(outcome)


def _check(outcome):
    assert not outcome.faults, "\n".join(outcome.faults)
    assert outcome.largest < RESIDENT_BYTES
    assert outcome.counts["inspect", "error"]
    assert outcome.counts["predict", "error"]


def test_server_reports_limits_signals_and_errors(server, tmp_path):
    missing = server.run(tmp_path, "inspect", "missing.onnx")
    assert missing["exit"] == 2
    assert missing["stderr"].startswith("error: missing.onnx does not exist")
