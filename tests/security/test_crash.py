"""A runtime that ends the process: the command names it, and signals reach the child that runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image
from plugins import install_plugin, on_path, timmx

pytestmark = pytest.mark.usefixtures("process")

_PLUGIN = """
import json, os, signal, time
from timmx.plugin import ExportBackend, parse_json_object

class Backend(ExportBackend):
    contract = 1
    name = "fatal"
    help = "A test format."
    suffixes = (".fatal",)
    runtime = "Fatal Runtime"

    def export(self, job, options): ...
    def read_metadata(self, path):
        content = parse_json_object(path, path.read_bytes())
        if content.pop("do") == "SIGSEGV early":
            os.kill(os.getpid(), signal.SIGSEGV)
        return content

    def open(self, path, settings):
        do = json.loads(path.read_bytes())["do"]
        if do == "wait":
            path.with_suffix(".pid").write_text(str(os.getpid()))
            time.sleep(60)
        os.kill(os.getpid(), getattr(signal, do))
        time.sleep(5)
"""

_METADATA = {
    "schema": 1,
    "model": {
        "name": "m",
        "architecture": "m",
        "source": "m",
        "trained": True,
        "seed": None,
        "weights_sha256": "0" * 64,
        "num_classes": 2,
        "license": None,
    },
    "input": {
        "name": "input",
        "layout": "NCHW",
        "dtype": "float32",
        "size": [3, 8, 8],
        "color_order": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "normalization": "caller",
        "value_range": [-1.0, 1.0],
    },
    "outputs": [{"name": "output", "kind": "logits", "shape": [1, 2]}],
    "labels": ["a", "b"],
    "batch": {"size": 1},
    "precision": "fp32",
    "format": {},
    "versions": {},
}


@pytest.fixture
def fatal(tmp_path):
    """A folder with the plugin and an image; writes a file whose runtime does what is asked."""
    install_plugin(tmp_path / "site", "fatal", _PLUGIN)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "image.png")

    def write(do: str):
        path = tmp_path / "model.fatal"
        path.write_text(json.dumps(_METADATA | {"do": do}))
        return path

    return write


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_crash_of_a_runtime_is_one_line_that_names_it(fatal, tmp_path, name):
    result = timmx("predict", fatal(name), tmp_path / "image.png", "--json", site=tmp_path / "site")
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert errors == [f"error: Fatal Runtime crashed ({name}) after it was given model.fatal"]
    assert json.loads(result.stdout)["error"]["type"] == "RuntimeCrash"


def test_crash_before_a_runtime_is_open_names_none(fatal, tmp_path):
    result = timmx("predict", fatal("SIGSEGV early"), tmp_path / "image.png", site=tmp_path / "site")
    assert result.returncode == 1
    assert "error: Python or one of its libraries crashed (SIGSEGV)" in result.stderr


def test_process_killed_by_the_system_is_reported(fatal, tmp_path):
    result = timmx("predict", fatal("SIGKILL"), tmp_path / "image.png", site=tmp_path / "site")
    assert result.returncode == 1
    assert "killed by SIGKILL" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("both", [False, True])
def test_signal_ends_parent_and_child(fatal, tmp_path, number, code, both):
    process, child = _start_waiting(fatal, tmp_path)
    (os.killpg if both else os.kill)(process.pid, number)  # a terminal sends Ctrl-C to both
    assert process.wait(20) == code
    assert not psutil.pid_exists(child)
    assert "Traceback" not in process.stderr.read()


def test_child_ends_if_the_parent_is_killed(fatal, tmp_path):
    process, child = _start_waiting(fatal, tmp_path)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while psutil.pid_exists(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(child)


def _start_waiting(fatal, folder):
    """`timmx predict` in a process group of its own, whose runtime waits; the process, and the id of its child."""
    process = subprocess.Popen(
        [sys.executable, "-m", "timmx", "predict", fatal("wait"), folder / "image.png"],
        env=os.environ | {"PYTHONPATH": on_path(folder / "site")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    note = folder / "model.pid"
    deadline = time.monotonic() + 100
    while not (note.is_file() and note.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int(note.read_text())
    assert child != process.pid
    return process, child
