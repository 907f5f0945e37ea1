"""`--runtime-device` reaches formats whose runtime has a choice of devices, and is an error for the others."""

from __future__ import annotations

import json

import openvino
import pytest
import timmx
from conftest import DIGITS
from timmx.errors import ConfigurationError

IMAGE = next(iter(sorted((DIGITS / "samples" / "3").glob("*.png"))))
COMMANDS = {
    "predict": [IMAGE],
    "eval": ["--data", DIGITS / "samples", "--limit", "10"],
    "verify": ["--against", f"local-dir:{DIGITS}"],
    "bench": ["--seconds", "0.05", "--rounds", "2"],
}
"""Arguments after the file."""


@pytest.fixture(scope="module")
def exported(exported_digits):
    return exported_digits("openvino")


def test_the_device_of_predict(exported, run_timmx):
    done = run_timmx("predict", exported, IMAGE, "--runtime-device", "auto", "--json")
    assert json.loads(done.stdout)["images"][0]["predictions"][0]["label"] == "3"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_device_that_is_not_there_is_an_error_of_each_command(exported, run_timmx, command):
    if any(name.startswith("NPU") for name in openvino.Core().available_devices):
        pytest.skip("this machine has an NPU")
    done = run_timmx(command, exported, *COMMANDS[command], "--runtime-device", "npu")
    assert done.exit_code == 2
    assert "OpenVINO finds no device NPU on this machine" in done.stderr


def test_locate_has_no_choice_of_devices(exported, run_timmx):
    done = run_timmx("verify", exported, *COMMANDS["verify"], "--locate", "--runtime-device", "auto")
    assert done.exit_code == 2
    assert "--runtime-device is for a verification, which --locate replaces" in done.stderr
    assert "hint: leave --runtime-device or --locate out" in done.stderr


def test_a_format_without_a_choice_of_devices(exported_digits, run_timmx):
    path = exported_digits("torch-export")
    done = run_timmx("predict", path, IMAGE, "--runtime-device", "gpu")
    assert done.exit_code == 2
    assert (
        f"{path.name} cannot run with --runtime-device gpu: torch-export has no choice of devices"
        in done.stderr
    )
    assert "hint: leave --runtime-device out" in done.stderr


def test_an_unknown_device(exported):
    with pytest.raises(ConfigurationError, match="unknown device 'tpu'") as caught:
        timmx.open(exported, runtime_device="tpu")
    assert caught.value.hint == "use cpu or gpu or npu or auto"
