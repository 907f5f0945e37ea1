"""`timmx verify` repeats the results of the export, and fails if the file does not match the model."""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs
import pytest
import timmx
from timmx.artifact import records

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "samples"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")


@pytest.fixture(scope="module")
def exported(exported_digits) -> Path:
    """The digits model as ONNX."""
    return exported_digits("onnx")


@pytest.fixture(scope="module")
def bytes_file(exported_digits) -> Path:
    """The digits model in LiteRT with the bytes of an image as input."""
    options = {"mode": "int8", "io": "uint8", "normalize": True, "calibration_data": SAMPLES}
    return exported_digits("litert", **options)


def report_of(path: Path) -> dict:
    """The report of the verification when the file was exported."""
    return json.loads((path.parent / "verification.json").read_text())


def test_verify_repeats_the_results_of_the_export_and_records_them(exported, digits, run_timmx):
    first = report_of(exported)
    assert records.recall(exported, (exported,)) is None
    done = run_timmx("verify", exported, "--against", digits, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["verification"]
    assert found["outputs"] == first["outputs"]
    assert found == first
    assert records.recall(exported, (exported,))["verification"] == first
    text = run_timmx("verify", exported, "--against", digits).stdout
    assert "verified: " in text
    assert "(floor 60 dB) on 20 inputs" in text


def test_integer_inputs_and_normalization_in_the_file(bytes_file, digits, run_timmx):
    done = run_timmx("verify", bytes_file, "--against", digits, "--json")
    assert json.loads(done.stdout)["verification"] == report_of(bytes_file)


def test_other_images_and_another_floor(exported, digits, run_timmx):
    data = SAMPLES / "7"
    done = run_timmx("verify", exported, "--against", digits, "--verify-data", data, "--min-snr", 20)
    assert f"(floor 20 dB) on {len(list(data.glob('*.png')))} inputs" in done.stdout
    done = run_timmx("verify", exported, "--against", digits, "--min-snr", 190, "--json")
    assert done.exit_code == 2
    assert "do not match those of" in done.stderr
    assert "hint: export it again" in done.stderr
    assert json.loads(done.stdout)["error"]["verification"]["status"] == "failed"


def test_a_minimum_of_agreement(exported, run_timmx):
    other = (
        "--against",
        "test_efficientnet",
        "--num-classes",
        10,
        "--seed",
        1,
        "--verify-data",
        SAMPLES / "7",
    )
    words = ("verify", exported, *other, "--min-snr", -200)
    assert run_timmx(*words).exit_code == 0
    for agreement in (0.99, 99):
        done = run_timmx(*words, "--min-agreement", agreement)
        assert done.exit_code == 2
        assert "output has the model's top-1 class for " in done.stderr
        assert "the floor is 99 %" in done.stderr
        assert "set another floor with --min-agreement" in done.stderr


def test_an_export_passes_the_minimum_of_agreement_on(export, digits, tmp_path, monkeypatch):
    import timmx.verification
    from timmx.errors import VerificationError
    from timmx.verification import Status, VerificationReport

    seen = []

    def verify(*_arguments, **options):
        seen.append(options["min_agreement"])
        return VerificationReport(status=Status.FAILED, reason="a reason")

    monkeypatch.setattr(timmx.verification, "verify", verify)
    with pytest.raises(VerificationError) as error:
        export("onnx", digits, tmp_path / "digits.onnx", min_agreement=90)
    assert seen == [0.9]
    assert "--min-agreement" in error.value.hint
    assert not list(tmp_path.glob("*.onnx"))


def test_another_file_instead_of_the_model(exported, bytes_file, digits, run_timmx):
    """The inputs differ: normalized numbers for one file, bytes of images for the other."""
    samples = f"{digits.removeprefix('local-dir:')}/samples"
    done = run_timmx("verify", bytes_file, "--against", exported, "--verify-data", samples, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["against"] == str(exported)
    assert found["verification"]["snr_db"] == pytest.approx(report_of(bytes_file)["snr_db"], abs=0.01)
    assert found["verification"]["accuracy"] == report_of(bytes_file)["accuracy"]
    assert records.recall(bytes_file, (bytes_file,)) is None
    done = run_timmx("verify", bytes_file, "--against", exported, "--num-classes", 10)
    assert done.exit_code == 2
    assert f"--num-classes applies to a PyTorch model, and --against {exported} is a file" in done.stderr
    assert "hint: leave --num-classes out" in done.stderr


def test_files_that_prepare_images_differently_are_not_compared(
    export, exported, digits, run_timmx, tmp_path
):
    timmx.export("onnx", digits, output=tmp_path / "large.onnx", input_size=(3, 96, 96), verify=False)
    done = run_timmx("verify", exported, "--against", tmp_path / "large.onnx")
    assert done.exit_code == 2
    assert "preprocess images differently" in done.stderr
    assert "hint: compare files where these are the same; timmx inspect FILE shows them" in done.stderr


def test_a_model_with_other_weights_is_reported_and_fails(exported, run_timmx):
    done = run_timmx("verify", exported, "--against", "test_efficientnet", "--num-classes", 10)
    assert done.exit_code == 2
    assert "has other weights than those that this file was exported from" in done.stderr
    assert records.recall(exported, (exported,)) is None


def test_the_model_is_found_from_the_metadata_if_possible(exported, run_timmx):
    done = run_timmx("verify", exported)
    assert done.exit_code == 2
    assert "hint: give it with --against" in done.stderr
    assert run_timmx("torch-export", "test_resnet", "--seed", 3, "-o", "seeded.pt2").exit_code == 0
    done = run_timmx("verify", "seeded.pt2")
    assert done.exit_code == 0
    assert "unproven: untrained weights" in done.stdout
    assert "other weights" not in done.stderr
