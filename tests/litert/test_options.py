"""`timmx litert` refuses wrong options before torch or a converter is imported, and wrong files and inputs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import timmx
import torch
from timmx.base import peak_resident_bytes, reset_peak
from timmx.cli.application import app
from timmx.errors import ArtifactError, ConfigurationError, UnsupportedError
from timmx_litert.plugin import LiteRTBackend
from typer.testing import CliRunner


def test_help_names_every_option():
    shown = CliRunner().invoke(app, ["litert", "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    for flag in (
        "--mode",
        "--io",
        "--nhwc-input",
        "--per-channel",
        "--calibration-data",
        "--calibration-samples",
    ):
        assert flag in shown.output
    assert "MobileNetV3" in shown.output  # the model family that dynamic-int8 does not suit


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "int8"}, "--calibration-data.*--random-calibration.*weight-int8"),
        ({"mode": "int16x8"}, "--calibration-data.*--random-calibration.*weight-int8"),
        ({"mode": "int4"}, "did you mean int8"),
        ({"random_calibration": True}, "--mode fp32 does not quantize"),
        ({"mode": "fp16", "calibration_samples": 8}, "--mode fp16 does not quantize"),
        ({"mode": "fp16", "per_channel": True}, "--per-channel"),
        ({"per_channel": False}, "--no-per-channel"),
        ({"calibration_method": "mse"}, "--calibration-method"),
        (
            {"mode": "weight-int8", "random_calibration": True},
            "--random-calibration applies to activation ranges",
        ),
        (
            {"mode": "dynamic-int8", "calibration_method": "mse"},
            "--calibration-method applies to activation ranges",
        ),
        (
            {"mode": "weight-int8", "calibration_data": ".", "calibration_samples": 8},
            "--calibration-samples applies to activation ranges",
        ),
        ({"io": "int8"}, "--mode int8"),
        ({"mode": "int16x8", "random_calibration": True, "io": "int8"}, "--mode int8"),
        ({"io": "uint8"}, "--normalize"),
        ({"mode": "int8", "calibration_data": "absent"}, "absent does not exist"),
        ({"mode": "int8", "calibration_data": ".", "random_calibration": True}, "use only one of them"),
        ({"mode": "int8", "calibration_data": "."}, "0 images"),
        ({"dynamic_batch": True}, "--batch-size N"),
        ({"output": "model.onnx"}, "tflite"),
    ],
)
def test_wrong_options_are_refused_with_a_hint(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=words):
        timmx.export("litert", "test_resnet", **options)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_no_file_holds_are_refused_before_they_are_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reset_peak()
    before = peak_resident_bytes()
    with pytest.raises(
        UnsupportedError, match=r"weights take 4\.05 GB, and a \.tflite file holds at most 2\.08 GB"
    ):
        timmx.export("litert", "vit_giant_patch14_224")
    assert before is None or peak_resident_bytes() - before < 10**9
    assert list(tmp_path.iterdir()) == []


def test_refusal_imports_nothing_heavy(process, export, tmp_path):
    code = (
        "import sys, json, timmx\n"
        "try: timmx.export('litert', 'test_resnet', mode='int8')\n"
        "except timmx.errors.ConfigurationError: pass\n"
        "heavy = ('torch', 'timm', 'jax', 'litert_torch', 'ai_edge_litert', 'ai_edge_quantizer', 'numpy')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (torch.rand(8, 3, 32), r"shape \(8, 3, 32\); this model takes \(N, 3, 160, 160\)"),
        (torch.zeros(8, 3, 160, 160, dtype=torch.uint8), r"(?s)uint8 numbers.*float\(\) / 255"),
        (torch.rand(8, 1, 160, 160), r"shape \(8, 1, 160, 160\); this model takes \(N, 3, 160, 160\)"),
        (torch.rand(3, 3, 160, 160), "holds 3 inputs; at least 4"),
        (torch.zeros(8, 3, 160, 160), "only the value 0, which gives no ranges"),
        ({"weights": torch.zeros(3)}, r"holds a dict \(weights, ...\), not a tensor"),
        (1e30 * torch.rand(8, 3, 160, 160), "no image has such values"),
        (-1e30 * torch.rand(8, 3, 160, 160), "no image has such values"),
    ],
)
def test_tensors_that_cannot_calibrate_are_refused(export, tmp_path, monkeypatch, saved, words):
    monkeypatch.chdir(tmp_path)
    torch.save(saved, "inputs.pt")
    with pytest.raises(ConfigurationError, match=words):
        timmx.export("litert", "test_resnet", mode="int8", calibration_data="inputs.pt", output="out.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["inputs.pt"]


def test_file_that_is_not_a_flatbuffer_is_refused(tmp_path):
    path = tmp_path / "wrong.tflite"
    path.write_bytes(b"no model at all, but long enough")
    for read in (timmx.open, LiteRTBackend().read_metadata, LiteRTBackend().inspect):
        with pytest.raises(ArtifactError, match=r"not a LiteRT model"):
            read(path)


def test_wrong_feeds_devices_and_thread_counts_are_refused(export, tmp_path):
    path = tmp_path / "out.tflite"
    timmx.export("litert", "test_resnet", output=path, verify=False)
    for threads in (0, -1):
        with pytest.raises(ConfigurationError, match="1 or more"):
            timmx.open(path, threads=threads)
    with pytest.raises(ConfigurationError, match="runs on the device cpu here, not on cuda"):
        timmx.open(path, device="cuda")
    with timmx.open(path, device="cpu", threads=1) as runner:
        for shape in ((1, 3, 80, 80), (2, 3, 160, 160), (1, 160, 160, 3), (3, 160, 160)):
            with pytest.raises(ConfigurationError, match=r"\(1, 3, 160, 160\)"):
                runner.run({"input": np.zeros(shape, np.float32)})
        with pytest.raises(ConfigurationError, match="takes input, but got image"):
            runner.run({"image": np.zeros((1, 3, 160, 160), np.float32)})
        assert runner.run({"input": np.zeros((1, 3, 160, 160), np.float32)})["output"].shape == (1, 1000)


def test_truncated_file_is_refused(export, tmp_path):
    """A file that is cut off cannot be opened."""
    path = tmp_path / "out.tflite"
    timmx.export("litert", "test_resnet", output=path, verify=False)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in (8, 64, *rng.integers(100, len(whole) - 1000, 4)):
        path.write_bytes(whole[: int(length)])
        with pytest.raises(ArtifactError):
            timmx.open(path)
