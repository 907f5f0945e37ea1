"""`timmx verify` repeats the results of the export, and fails if the file does not match the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timmx
from timmx.artifact import records

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "samples"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setattr(records.platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")


@pytest.fixture(scope="module")
def exported(export, tmp_path_factory, digits):
    """The digits model as ONNX: the result of its export."""
    return timmx.export("onnx", digits, output=tmp_path_factory.mktemp("a") / "digits.onnx")


@pytest.fixture(scope="module")
def bytes_file(export, tmp_path_factory, digits):
    """The digits model in LiteRT with the bytes of an image as input."""
    path = tmp_path_factory.mktemp("b") / "digits.tflite"
    options = {"mode": "int8", "io": "uint8", "normalize": True, "calibration_data": SAMPLES}
    return timmx.export("litert", digits, output=path, **options)


def test_verify_repeats_the_results_of_the_export_and_records_them(exported, digits, run_timmx):
    first = exported.verification.to_dict()
    assert records.recall(exported.path, (exported.path,)) is None
    done = run_timmx("verify", exported.path, "--against", digits, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["verification"]
    assert found["outputs"] == first["outputs"]
    assert found == first
    assert records.recall(exported.path, (exported.path,))["verification"] == first
    text = run_timmx("verify", exported.path, "--against", digits).stdout
    assert "verified: " in text
    assert "(floor 60 dB) on 20 inputs" in text


def test_integer_inputs_and_normalization_in_the_file(bytes_file, digits, run_timmx):
    done = run_timmx("verify", bytes_file.path, "--against", digits, "--json")
    assert json.loads(done.stdout)["verification"] == bytes_file.verification.to_dict()


def test_other_images_and_another_floor(exported, digits, run_timmx):
    data = SAMPLES / "7"
    done = run_timmx("verify", exported.path, "--against", digits, "--verify-data", data, "--min-snr", 20)
    assert f"(floor 20 dB) on {len(list(data.glob('*.png')))} inputs" in done.stdout
    done = run_timmx("verify", exported.path, "--against", digits, "--min-snr", 190, "--json")
    assert done.exit_code == 2
    assert "do not match those of" in done.stderr
    assert "hint: export it again" in done.stderr
    assert json.loads(done.stdout)["error"]["verification"]["status"] == "failed"


def test_another_file_instead_of_the_model(exported, bytes_file, digits, run_timmx):
    """The inputs differ: normalized numbers for one file, bytes of images for the other."""
    samples = f"{digits.removeprefix('local-dir:')}/samples"
    done = run_timmx(
        "verify", bytes_file.path, "--against", exported.path, "--verify-data", samples, "--json"
    )
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["against"] == str(exported.path)
    assert found["verification"]["snr_db"] == pytest.approx(bytes_file.verification.snr_db, abs=0.01)
    assert found["verification"]["accuracy"] == bytes_file.verification.accuracy
    assert records.recall(bytes_file.path, (bytes_file.path,)) is None
    done = run_timmx("verify", bytes_file.path, "--against", exported.path, "--num-classes", 10)
    assert done.exit_code == 2
    assert f"--num-classes applies to a PyTorch model, and --against {exported.path} is a file" in done.stderr
    assert "hint: leave --num-classes out" in done.stderr


def test_files_that_prepare_images_differently_are_not_compared(
    export, exported, digits, run_timmx, tmp_path
):
    timmx.export("onnx", digits, output=tmp_path / "large.onnx", input_size=(3, 96, 96), verify=False)
    done = run_timmx("verify", exported.path, "--against", tmp_path / "large.onnx")
    assert done.exit_code == 2
    assert "preprocess images differently" in done.stderr
    assert "hint: compare files where these are the same; timmx inspect FILE shows them" in done.stderr


def test_a_model_with_other_weights_is_reported_and_fails(exported, run_timmx):
    done = run_timmx("verify", exported.path, "--against", "test_efficientnet", "--num-classes", 10)
    assert done.exit_code == 2
    assert "has other weights than those that this file was exported from" in done.stderr
    assert records.recall(exported.path, (exported.path,)) is None


def test_the_model_is_found_from_the_metadata_if_possible(exported, run_timmx):
    done = run_timmx("verify", exported.path)
    assert done.exit_code == 2
    assert "hint: give it with --against" in done.stderr
    assert run_timmx("torch-export", "test_resnet", "--seed", 3, "-o", "seeded.pt2").exit_code == 0
    done = run_timmx("verify", "seeded.pt2")
    assert done.exit_code == 0
    assert "unproven: untrained weights" in done.stdout
    assert "other weights" not in done.stderr
