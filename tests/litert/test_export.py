"""`timmx litert` on the digits model: every mode keeps its accuracy, and the metadata describes every input type."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import timmx
import torch
from litert_quality import answers, read, write_seen_digits
from PIL import Image
from timmx.errors import VerificationError
from timmx.registry.discovery import load
from timmx.testing import awakened_model
from timmx_litert.plugin import LiteRTBackend

pytestmark = pytest.mark.usefixtures("export")

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
SAMPLES = DIGITS / "samples"


@pytest.fixture(scope="module")
def training_digits(tmp_path_factory):
    """A folder of digits that are not among the samples."""
    folder = tmp_path_factory.mktemp("digits") / "seen"
    write_seen_digits(folder, 32)
    return folder


@pytest.fixture
def export(digits, tmp_path):
    """Export the digits model."""
    command = LiteRTBackend().create_command()
    return lambda **options: command(model=digits, output=tmp_path / "digits.tflite", **options)


def accuracy(path, **inputs):
    """The accuracy of a file on the held-out digits, encoded according to its metadata."""
    metadata = LiteRTBackend().read_metadata(path)
    entry, labels = metadata["input"], metadata["labels"]
    correct = total = 0
    with timmx.open(path) as runner:
        for image in sorted(SAMPLES.glob("*/*.png")):
            with Image.open(image) as opened:
                pixels = np.asarray(opened.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
            scores = next(iter(runner.run({"input": encode(pixels, entry)}).values()))
            correct += labels[int(scores.argmax())] == image.parent.name
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
def test_each_mode_keeps_the_accuracy(export, training_digits, mode, least_db, max_loss):
    options = {"calibration_data": training_digits} if mode in ("int8", "int16x8") else {}
    result = export(mode=mode, **options)
    assert result.verification.status == "verified"
    assert result.verification.snr_db > least_db
    assert accuracy(result.path) >= 0.996 - max_loss
    assert result.metadata["format"]["mode"] == mode


@pytest.mark.parametrize(
    ("options", "dtype", "layout"),
    [
        ({"io": "uint8", "normalize": True}, "uint8", "NHWC"),
        ({"mode": "weight-int8", "io": "uint8", "normalize": True}, "uint8", "NHWC"),
        ({"mode": "int8", "io": "uint8", "normalize": True}, "uint8", "NHWC"),
        ({"mode": "int8", "io": "uint8"}, "uint8", "NHWC"),
        ({"mode": "int8", "io": "int8"}, "int8", "NCHW"),
        ({"mode": "int8", "nhwc_input": True, "batch_size": 1}, "float32", "NHWC"),
    ],
)
def test_metadata_describes_each_input_type(export, training_digits, options, dtype, layout):
    result = export(**options, calibration_data=training_digits if options.get("mode") == "int8" else None)
    entry = result.metadata["input"]
    assert (entry["dtype"], entry["layout"]) == (dtype, layout)
    assert accuracy(result.path) >= 0.986
    with timmx.open(result.path) as runner:
        assert [spec.name for spec in (*runner.inputs, *runner.outputs)] == ["input", "output"]
        assert runner.inputs[0].dtype == dtype


def test_calibration_on_a_tensor_file_equals_calibration_on_its_images(export, tmp_path, training_digits):
    module = timm.create_model(f"local-dir:{DIGITS}")
    tensor, images = tmp_path / "inputs.pt", read(module, sorted(SAMPLES.glob("*/*.png"))[::50], True)
    torch.save(torch.from_numpy(read(module, sorted(training_digits.iterdir()), True)), tensor)
    outputs = []
    for data in (training_digits, tensor):
        result = export(mode="int8", normalize=True, calibration_data=data)
        assert str(data) in result.metadata["format"]["calibration"]
        with timmx.open(result.path) as runner:
            outputs.append(answers(runner, images))
    np.testing.assert_array_equal(*outputs)


def test_verification_error_names_black_calibration_images(export, tmp_path):
    black = tmp_path / "black"
    black.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64)).save(black / f"{number}.png")
    with pytest.raises(VerificationError, match=r"calibrated on 4 images of .*black: inputs of another kind"):
        export(mode="int8", calibration_data=black)


def test_unused_calibration_data_gives_a_note(export):
    result = export(mode="weight-int8", calibration_data=SAMPLES)
    assert any("needs no ranges" in note for note in result.notes)


def test_same_export_gives_the_same_bytes(export, training_digits):
    options = {"mode": "int8", "nhwc_input": True, "calibration_data": training_digits}
    first = export(**options).path.read_bytes()
    assert export(**options).path.read_bytes() == first


def test_inspect_reports_operations_parameters_and_task_metadata(export):
    result = export(nhwc_input=True)
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


def test_a_transformer_in_integers_keeps_its_norms_and_softmax_float(export, tmp_path):
    result = timmx.export(
        "litert",
        awakened_model("test_vit"),
        output=tmp_path / "vit.tflite",
        mode="int8",
        random_calibration=True,
        min_snr=10,
    )
    stays = result.metadata["format"]["float_operations"]
    assert {"SOFTMAX", "SQUARED_DIFFERENCE", "GELU", "BATCH_MATMUL"} <= set(stays)
    assert any("Computed in float:" in note and "SOFTMAX" in note for note in result.notes)
    assert any("synthetic images" in note or "do not fit" in note for note in result.notes)


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        ({"io": "uint8", "normalize": True}, []),
        ({}, ["--nhwc-input", "--normalize"]),
        ({"nhwc_input": True}, ["--normalize"]),
        ({"nhwc_input": True, "normalize": True, "features": True}, ["not classes"]),
        ({"in_chans": 1, "io": "uint8", "normalize": True, "batch_size": 2}, ["1 channels", "batch size"]),
    ],
)
def test_note_says_why_media_pipe_cannot_use_a_file(export, tmp_path, options, reasons):
    result = timmx.export("litert", "lcnet_035", output=tmp_path / "m.tflite", verify=False, **options)
    notes = [note for note in result.notes if "MediaPipe" in note]
    assert len(notes) == bool(reasons)
    assert all(reason in notes[0] for reason in reasons)


def test_backend_is_found():
    assert load("litert").suffixes == (".tflite",)


def test_media_pipe_classifies_the_digits_by_name(export, classify):
    path = export(io="uint8", normalize=True, softmax=True).path
    files = sorted(SAMPLES.glob("*/*.png"))[::25]
    images = []
    for file in files:
        with Image.open(file) as opened:
            images.append(np.array(opened.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)))
    answers = classify(path.read_bytes(), *images)
    assert [next(iter(scores)) for _, scores in answers] == [file.parent.name for file in files]
