"""`timmx openvino` refuses wrong options before torch or OpenVINO is imported, with a hint."""

from __future__ import annotations

import importlib.util
import json
import os
import sys

import pytest
import timmx
from conftest import DIGITS
from timmx.errors import ConfigurationError, MissingRequirementError
from timmx_openvino.options import OpenVINOMode, OpenVINOOptions
from timmx_openvino.plugin import OpenVINOBackend

SAMPLES = DIGITS / "samples"

REFUSED = [
    ({"mode": "int8"}, "--mode int8 requires typical images", "--calibration-data FOLDER"),
    ({"mode": "int8", "calibration_data": "absent"}, "absent does not exist", "name a folder"),
    ({"mode": "int8", "max_drop": 1}, "--max-drop requires --calibration-data", "one subfolder per class"),
    (
        {"mode": "int8", "calibration_data": SAMPLES, "calibration_method": "mse"},
        "--calibration-method mse is not one of those that NNCF has",
        "minmax or percentile",
    ),
    ({"io": "uint8"}, "--io uint8", "--normalize"),
    *(
        ({"mode": mode, **options}, f"{flag} requires --mode int8, but --mode is {mode}", "use --mode int8")
        for mode in ("fp32", "weight-int8")
        for flag, options in (
            ("--calibration-data", {"calibration_data": SAMPLES}),
            ("--random-calibration", {"random_calibration": True}),
            ("--calibration-method", {"calibration_method": "percentile"}),
            ("--max-drop", {"max_drop": 1}),
        )
    ),
]
"""Options, and parts of the message and of the hint."""


def test_help_describes_every_option(run_timmx):
    shown = run_timmx("openvino", "--help").stdout
    for flag in ("--mode", "--io", "--calibration-data", "--calibration-method", "--max-drop"):
        assert flag in shown


@pytest.mark.parametrize(("options", "message", "hint"), REFUSED)
def test_wrong_options_are_refused(tmp_path, options, message, hint):
    with pytest.raises(ConfigurationError) as caught:
        timmx.export("openvino", "test_resnet", output=tmp_path / "m.xml", **options)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_refusal_imports_nothing_heavy(process, tmp_path):
    code = (
        "import sys, json, timmx\n"
        "try: timmx.export('openvino', 'test_resnet', mode='int8')\n"
        "except timmx.errors.ConfigurationError: pass\n"
        "print(json.dumps([name for name in ('torch', 'timm', 'openvino', 'nncf', 'numpy') if name in sys.modules]))"
    )
    done = process([sys.executable, "-c", code], cwd=tmp_path)
    assert json.loads(done.stdout) == []


def test_openvino_sends_no_events(process, tmp_path):
    """`import openvino` keeps an id of the user in the home folder, and sends an event, if it finds its telemetry."""
    code = (
        "import timmx_openvino.plugin, openvino.tools.ovc\n"
        "print(type(openvino.tools.ovc.telemetry).__module__)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = process([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)})
    assert done.stdout == "openvino.tools.ovc.telemetry_stub\n", done.stderr
    assert not list(tmp_path.iterdir())


def test_nncf_sends_no_events(process):
    """The tests themselves do not show it: NNCF sends none if pytest is imported."""
    code = (
        "import timmx_openvino.int8\n"
        "from nncf.telemetry.wrapper import NNCFTelemetryStub, telemetry\n"
        "print(isinstance(telemetry, NNCFTelemetryStub))"
    )
    done = process([sys.executable, "-c", code])
    assert done.stdout == "True\n", done.stderr


def test_nncf_is_required_by_the_modes_that_use_it(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "nncf" else find(name, *rest)
    )
    backend = OpenVINOBackend()
    (problem,) = backend.check_environment()
    assert problem.partial  # `timmx doctor` shows a note
    assert backend.check_environment(None, OpenVINOOptions(mode=OpenVINOMode.FP16)) == ()
    with pytest.raises(MissingRequirementError, match="--mode weight-int8 requires it") as caught:
        timmx.export("openvino", "test_resnet", output=tmp_path / "m.xml", mode="weight-int8")
    assert "timmx-openvino[quantize]" in caught.value.hint
