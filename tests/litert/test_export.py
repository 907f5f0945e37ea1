"""`timmx litert` on the digits model: every mode keeps its accuracy, and the metadata describes every input type."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import timmx
from litert_quality import answers, read
from PIL import Image
from timmx.registry.discovery import load
from timmx_litert.plugin import LiteRTBackend
from torch import nn

pytestmark = pytest.mark.usefixtures("export")

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
SAMPLES = DIGITS / "samples"


@cache
def samples():
    """The held-out digits: pixels (64, 64, 3) and the class of each."""
    digits = []
    for image in sorted(SAMPLES.glob("*/*.png")):
        with Image.open(image) as opened:
            pixels = np.array(opened.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
        digits.append((pixels, image.parent.name))
    return digits


def accuracy(path, **inputs):
    """The accuracy of a file on the held-out digits, encoded according to its metadata."""
    metadata = LiteRTBackend().read_metadata(path)
    entry, labels = metadata["input"], metadata["labels"]
    correct = total = 0
    with timmx.open(path) as runner:
        for pixels, label in samples():
            scores = next(iter(runner.run({"input": encode(pixels, entry)}).values()))
            correct += labels[int(scores.argmax())] == label
            total += 1
    return correct / total


def encode(pixels, entry):
    """One image of bytes (H, W, C) in the form that the artifact's `input` metadata describes."""
    values = pixels.astype(np.float32) / 255
    if entry["normalization"] == "caller":
        values = (values - np.float32(entry["mean"])) / np.float32(entry["std"])
    if "quantization" in entry:
        scale, zero_point = entry["quantization"]["scale"], entry["quantization"]["zero_point"]
        limits = np.iinfo(entry["dtype"])
        values = np.rint(values / scale + zero_point).clip(limits.min, limits.max).astype(entry["dtype"])
    elif entry["dtype"] == "uint8":
        values = pixels
    if entry["layout"] == "NCHW":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None])


@pytest.mark.parametrize(
    ("mode", "least_db", "max_loss"),
    [
        ("fp32", 100, 0.0),
        ("fp16", 45, 0.002),
        ("dynamic-int8", 25, 0.005),
        ("weight-int8", 25, 0.005),
        ("int8", 20, 0.01),
        ("int16x8", 20, 0.01),
    ],
)
def test_each_mode_keeps_the_accuracy(digits_files, mode, least_db, max_loss):
    result = digits_files.results[mode]
    assert result.verification["status"] == "verified"
    assert result.verification["snr_db"] > least_db
    assert accuracy(result.path) >= 0.996 - max_loss
    assert result.metadata["format"]["mode"] == mode


@pytest.mark.parametrize(
    ("files", "name", "dtype", "layout"),
    [
        ("pixel_files", "fp32", "uint8", "NHWC"),
        ("pixel_files", "weight-int8", "uint8", "NHWC"),
        ("normalizing_files", "uint8-io", "uint8", "NHWC"),
        ("digits_files", "uint8-io", "uint8", "NHWC"),
        ("digits_files", "int8-io", "int8", "NCHW"),
        ("digits_files", "int8-nhwc", "float32", "NHWC"),
    ],
)
def test_metadata_describes_each_input_type(request, files, name, dtype, layout):
    result = request.getfixturevalue(files).results[name]
    entry = result.metadata["input"]
    assert (entry["dtype"], entry["layout"]) == (dtype, layout)
    assert accuracy(result.path) >= 0.986
    with timmx.open(result.path) as runner:
        assert [spec.name for spec in (*runner.inputs, *runner.outputs)] == ["input", "output"]
        assert runner.inputs[0].dtype == dtype


def test_calibration_on_a_tensor_file_equals_calibration_on_its_images(normalizing_files):
    module = timm.create_model(f"local-dir:{DIGITS}")
    images = read(module, sorted(SAMPLES.glob("*/*.png"))[::50], True)
    outputs = []
    for name, data in (("images", "seen"), ("tensor", "inputs.pt")):
        result = normalizing_files.results[name]
        assert data in result.metadata["format"]["calibration"]
        with timmx.open(result.path) as runner:
            outputs.append(answers(runner, images))
    np.testing.assert_array_equal(*outputs)


def test_verification_error_names_black_calibration_images(digits_files):
    error = digits_files.failures["black"]
    assert error["type"] == "VerificationError"
    assert re.search(r"calibrated on 4 images of .*black: inputs of another kind", error["message"])
    assert list(digits_files.failures) == ["black"]


def test_unused_calibration_data_gives_a_note(digits_files):
    assert any("needs no ranges" in note for note in digits_files.results["weight-int8"].notes)


def test_same_export_gives_the_same_bytes(digits_files, digits, training_digits, tmp_path):
    """Also alone, without the targets that share its conversion."""
    path = tmp_path / "alone.tflite"
    options = {"mode": "int8", "nhwc_input": True, "batch_size": 1, "calibration_data": training_digits}
    timmx.export("litert", digits, output=path, **options)
    assert path.read_bytes() == digits_files.results["int8-nhwc"].path.read_bytes()


def test_targets_of_one_command_convert_once_for_each_input(tmp_path, monkeypatch):
    import litert_torch

    conversions = []

    def count(*arguments, **options):
        conversions.append(options["sample_kwargs"]["input"].shape)
        return convert(*arguments, **options)

    convert = litert_torch.convert
    monkeypatch.setattr(litert_torch, "convert", count)
    targets = ["litert", "litert:mode=fp16", "litert:mode=weight-int8", "litert:batch_size=2"]
    done = timmx.export_many(Tiny(), targets, tmp_path / "out", verify=False)
    assert not done.failures
    assert len(done.results) == 4
    assert conversions == [(1, 3, 24, 20), (2, 3, 24, 20)]


def test_inspect_reports_operations_parameters_and_task_metadata(digits_files):
    result = digits_files.results["nhwc"]
    report = json.loads(json.dumps(LiteRTBackend().inspect(result.path)))
    assert report["operations"]["CONV_2D"] > 3
    assert report["parameters"] == pytest.approx(sum(report["constants_by_type"].values()), rel=0.01)
    assert report["associated_files"] == ["labels.txt"]
    assert report["task_metadata"]["author"].startswith("Unknown; exported with timmx")
    assert report["task_metadata"]["license"] == "apache-2.0"
    assert (
        report["task_metadata"]["version"]
        == f"weights sha256:{result.metadata['model']['weights_sha256'][:16]}"
    )


def test_a_transformer_in_integers_keeps_its_norms_and_softmax_float(transformer_files):
    result = transformer_files.results["int8"]
    stays = result.metadata["format"]["float_operations"]
    assert {"SOFTMAX", "SQUARED_DIFFERENCE", "GELU", "BATCH_MATMUL"} <= set(stays)
    assert any("Computed in float:" in note and "SOFTMAX" in note for note in result.notes)
    assert any("synthetic images" in note or "do not fit" in note for note in result.notes)


class Tiny(nn.Module):
    """A classifier, or a pyramid of features, of one convolution with ImageNet's mean and std."""

    def __init__(self, channels=3, features=False):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(channels, 4, 3, 2), nn.Linear(4, 5)
        mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
        self.pretrained_cfg = {"input_size": (channels, 24, 20), "mean": mean, "std": std, "num_classes": 5}
        self.num_classes = 5
        if features:
            self.feature_info = ()

    def forward(self, x):
        maps = self.convolution(x).relu()
        return [maps] if hasattr(self, "feature_info") else self.head(maps.mean((2, 3)))


@pytest.mark.parametrize(
    ("model", "options", "reasons"),
    [
        (Tiny(), {"io": "uint8", "normalize": True}, []),
        (Tiny(), {}, ["--nhwc-input", "--normalize"]),
        (Tiny(), {"nhwc_input": True}, ["--normalize"]),
        (Tiny(features=True), {"nhwc_input": True, "normalize": True}, ["not classes"]),
        (
            Tiny(channels=1),
            {"io": "uint8", "normalize": True, "batch_size": 2},
            ["1 channels", "batch size"],
        ),
    ],
)
def test_note_says_why_media_pipe_cannot_use_a_file(tmp_path, model, options, reasons):
    result = timmx.export("litert", model, output=tmp_path / "m.tflite", verify=False, **options)
    notes = [note for note in result.notes if "MediaPipe" in note]
    assert len(notes) == bool(reasons)
    assert all(reason in notes[0] for reason in reasons)


def test_backend_is_found():
    assert load("litert").suffixes == (".tflite",)


def test_media_pipe_classifies_the_digits_by_name(pixel_files, classify):
    chosen = samples()[::25]
    answers = classify(pixel_files.results["fp32"].path.read_bytes(), *(pixels for pixels, _ in chosen))
    assert [next(iter(scores)) for _, scores in answers] == [label for _, label in chosen]
