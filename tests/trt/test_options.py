"""`timmx tensorrt` refuses wrong options before torch or TensorRT is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timmx
from timmx.cli.application import app
from timmx.errors import ConfigurationError, MissingRequirementError
from timmx.registry.discovery import entries, load
from typer.testing import CliRunner

BUILD = {"device": "cuda"}
ONNX = {"onnx_only": True}


def test_help_names_every_option_and_model_is_optional():
    shown = CliRunner().invoke(app, ["tensorrt", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "[MODEL]" in shown.output
    for flag in (
        "--mode --opset --batch-min --batch-max --onnx-only --from-onnx --keep-onnx --triton --workspace --opt-level "
        "--timing-cache --version-compatible --hardware-compat --calibration-data --calibration-samples "
        "--calibration-method --random-calibration"
    ).split():
        assert flag in shown.output


def test_backend_is_available_without_tensorrt():
    (entry,) = (entry for entry in entries() if entry.name == "tensorrt")
    assert entry.state == "available"
    assert load("tensorrt").suffixes == (".engine", ".plan")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "hint: add --device cuda; or write the typed ONNX with --onnx-only"),
        ({"dynamic_batch": True, **BUILD}, "--batch-size N with N of 2 or more"),
        ({"dynamic_batch": True, "batch_size": 1, **BUILD}, "2 or more with a dynamic batch size"),
        ({"dynamic_batch": True, "batch_size": 4, "batch_max": 2, **BUILD}, "not in ascending order"),
        ({"dynamic_batch": True, "batch_size": 4, "batch_min": 5, **BUILD}, "not in ascending order"),
        ({"batch_min": 2, **BUILD}, "--batch-min requires a dynamic batch size"),
        ({"batch_max": 2, **ONNX}, "--batch-max requires a dynamic batch size"),
        ({"mode": "int8", **ONNX}, "--calibration-data.*--random-calibration.*--mode fp16"),
        ({"mode": "fp16", "calibration_samples": 8, **ONNX}, "--mode fp16 is not one"),
        ({"calibration_method": "mse", **ONNX}, "--mode fp32 is not one"),
        ({"mode": "fp8", "calibration_method": "mse", "random_calibration": True, **ONNX}, "evenly spaced"),
        ({"mode": "bf16", "opset": 21, **ONNX}, "--opset 22 or later"),
        ({"mode": "int8", "opset": 18, "random_calibration": True, **ONNX}, "--opset 19 or later"),
        ({"mode": "fp8", **ONNX}, "hint: .*--calibration-data.*--random-calibration.*--mode fp16"),
        ({"mode": "fp8", "calibration_samples": 8, **ONNX}, "--mode fp8 requires calibration inputs"),
        ({"mode": "fp8", "opset": 18, "random_calibration": True, **ONNX}, "--opset 19 or later"),
        (
            {"mode": "bf16", "random_calibration": True, **ONNX},
            r"--mode bf16 is not one\nhint: .*--mode int8 or fp8",
        ),
        ({"mode": "fp4", **ONNX}, "not among the choices"),
        ({"workspace": 0.0, **BUILD}, "not a valid amount of memory"),
        ({"workspace": 1e300, **BUILD}, "not a valid amount of memory"),
        ({"workspace": 2.0, **ONNX}, "--workspace applies to an engine"),
        ({"triton": "repository", **ONNX}, "--triton applies to an engine"),
        ({"version_compatible": True, **ONNX}, "--version-compatible applies to an engine"),
        ({"mode": "int8", "calibration_data": "nowhere", **ONNX}, "nowhere does not exist"),
        ({"keep_onnx": "kept.txt", **BUILD}, "does not end in .onnx"),
        ({"output": "model.onnx", **BUILD}, "must end in .engine"),
        ({"output": "model.engine", **ONNX}, "must end in .onnx"),
    ],
)
def test_wrong_options_are_refused_with_a_hint(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=words):
        timmx.export("tensorrt", "test_resnet", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (None, {}, "no model is given"),
        (None, {"from_onnx": "absent.onnx"}, r"absent\.onnx is not a file"),
        (None, {"from_onnx": "notes.txt"}, "not an .onnx file"),
        (
            "test_resnet",
            {"from_onnx": "notes.txt"},
            "is used instead of MODEL, but test_resnet is given too\nhint: leave test_resnet out",
        ),
        (None, {"from_onnx": "notes.txt", "softmax": True}, "--softmax applies to a model"),
    ],
)
def test_wrong_source_files_are_refused(tmp_path, monkeypatch, model, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigurationError, match=words):
        timmx.export("tensorrt", model, **options, **BUILD)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_missing_tensorrt_is_reported_before_torch_is_imported(process, tmp_path):
    if load("tensorrt").check_environment() == ():
        pytest.skip("TensorRT and a GPU are available")
    with pytest.raises(MissingRequirementError, match=r"hint: .*--onnx-only works without it"):
        timmx.export("tensorrt", "test_resnet", output=tmp_path / "a.engine", **BUILD)
    code = (
        "import sys, json, timmx\n"
        "for options in ({}, {'device': 'cuda'}):\n"
        "    try: timmx.export('tensorrt', 'test_resnet', **options)\n"
        "    except timmx.TimmxError: pass\n"
        "heavy = ('torch', 'timm', 'onnx', 'onnxruntime', 'onnx_ir', 'tensorrt', 'numpy')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
