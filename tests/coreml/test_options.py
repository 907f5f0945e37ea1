"""Options that `timmx coreml` refuses before importing torch or coremltools, and its defaults."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys

import pytest
import timmx
from timmx.errors import ArtifactError, ConfigurationError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"convert_to": "neuralnetwork", "compute_precision": "float16"}, "hint: .*--half to store"),
        (
            {"convert_to": "neuralnetwork", "compute_precision": "float32"},
            "hint: leave out --compute-precision",
        ),
        ({"convert_to": "neuralnetwork", "quantize": "int8"}, "for an mlprogram.*\nhint: .*--half"),
        ({"convert_to": "neuralnetwork", "target": "ios15"}, "hint: leave out --target"),
        ({"half": True}, "--convert-to neuralnetwork.*\nhint: leave out --half"),
        ({"target": "ios14"}, "mlprogram.*\nhint: use --convert-to neuralnetwork"),
        ({"target": "macos11"}, "mlprogram"),
        (
            {"target": "ios15", "quantize": "int8"},
            "requires --target ios16 or later.*\nhint: use --target ios16",
        ),
        (
            {"target": "macos14", "quantize": "int4"},
            "requires --target ios18 or later.*\nhint: use --target ios18",
        ),
        (
            {"target": "ios15", "quantize": "palette6"},
            "requires --target ios16 or later.*\nhint: .*leave out --quantize",
        ),
        ({"target": "ios12"}, "ios18"),
        ({"quantize": "int2"}, "did you mean int8 or int4"),
        ({"batch_upper_bound": 4}, "hint: add --dynamic-batch"),
        ({"batch_sizes": (1, 4)}, "hint: add --dynamic-batch"),
        ({"batch_upper_bound": 1, "dynamic_batch": True}, "batch_upper_bound|--batch-upper-bound"),
        ({"batch_sizes": (1, 4), "batch_upper_bound": 4, "dynamic_batch": True}, "hint: leave out one"),
        ({"batch_sizes": (4,), "dynamic_batch": True}, "hint: .*--batch-size for one"),
        ({"batch_sizes": (0, 4), "dynamic_batch": True}, "1 or more"),
        ({"batch_sizes": (4, 4), "dynamic_batch": True}, "different"),
        ({"image_input": True}, "hint: add --normalize"),
        ({"image_input": True, "normalize": True, "batch_size": 2}, "hint: leave out --batch-size 2"),
        ({"image_input": True, "normalize": True, "dynamic_batch": True}, "hint: leave out --dynamic-batch"),
        (
            {"image_input": True, "normalize": True, "in_chans": 5},
            "5 channels\nhint: leave out --image-input",
        ),
        ({"image_input": True, "normalize": True, "input_size": (2, 64, 64)}, "2 channels"),
        ({"classifier": True, "num_classes": 0}, "hint: leave out --classifier or --num-classes 0"),
        ({"classifier": True, "features": True}, "hint: leave out --classifier or --features"),
        ({"classifier": True, "batch_size": 4}, "hint: leave out --batch-size 4"),
        ({"compute_units": "cpu", "verify": False}, "hint: leave out --compute-units or --no-verify"),
        ({"compute_units": "everywhere"}, "cpu-ne"),
        ({"output": "model.mlmodel"}, "mlpackage"),
        ({"output": "model.mlpackage", "convert_to": "neuralnetwork"}, "mlmodel"),
    ],
)
def test_invalid_options_are_refused_with_a_hint(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=words):
        timmx.export("coreml", "test_resnet", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="the option is valid on macOS")
def test_compute_units_are_refused_without_core_ml():
    with pytest.raises(ConfigurationError, match="requires macOS\nhint: leave out --compute-units"):
        timmx.export("coreml", "test_resnet", compute_units="cpu-ne")


def test_refusing_options_imports_no_heavy_library(process, tmp_path):
    code = (
        "import sys, timmx\n"
        "try:\n    timmx.export('coreml', 'resnet18', target='ios15', quantize='int4')\n"
        "except timmx.ConfigurationError: pass\n"
        "print(sorted({'torch', 'timm', 'numpy', 'coremltools'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_unknown_target_on_the_command_line_lists_the_targets(run_timmx):
    done = run_timmx("coreml", "resnet18", "--target", "ios12")
    assert done.exit_code == 2
    assert "ios18" in done.stderr
    assert "macos15" in done.stderr


@pytest.mark.parametrize(
    ("options", "specification"),
    [
        ({}, 6),
        ({"target": "macos14"}, 8),
        ({"target": "ios26"}, 10),
        ({"quantize": "int8"}, 7),
        ({"convert_to": "neuralnetwork"}, 4),
        ({"convert_to": "neuralnetwork", "target": "ios14"}, 4),  # ios13 has all its layers
    ],
)
def test_target_is_the_oldest_that_the_options_allow(export, tmp_path, awakened, options, specification):
    suffix = ".mlmodel" if "convert_to" in options else ".mlpackage"
    result = timmx.export(
        "coreml",
        "test_resnet",
        checkpoint=awakened("test_resnet"),
        output=tmp_path / f"model{suffix}",
        **options,
    )
    assert result.metadata["format"]["specification_version"] == specification
    assert result.verification.status == "verified"


@pytest.mark.parametrize(("dynamic", "specification"), [(False, 5), (True, 5)])
def test_neuralnetwork_target_is_the_oldest_with_its_layers(
    export, tmp_path, awakened, dynamic, specification
):
    options = {"checkpoint": awakened("test_vit", depth=1), "model_kwargs": ("depth=1",)}
    options |= {"convert_to": "neuralnetwork", "dynamic_batch": dynamic}
    result = timmx.export("coreml", "test_vit", output=tmp_path / "model.mlmodel", **options)
    assert result.metadata["format"]["specification_version"] == specification
    assert result.metadata["format"]["target"] == "ios14"
    with pytest.raises(timmx.UnsupportedError, match="ios13"):
        timmx.export("coreml", "test_vit", output=tmp_path / "old.mlmodel", target="ios13", **options)


def test_missing_coremltools_has_a_hint_to_install_it(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "coremltools" else real(name, *rest)
    )
    with pytest.raises(timmx.MissingRequirementError, match=r"\nhint: uv pip install 'coremltools>=9,<10'"):
        timmx.export("coreml", "test_resnet")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(
        timmx.MissingRequirementError, match=r"no wheel for .*aarch64.*\nhint: export on macOS"
    ):
        timmx.export("coreml", "test_resnet")


def test_help_shows_the_options(run_timmx):
    output = run_timmx("coreml", "--help").stdout
    for flag in ("--convert-to", "--quantize", "--target", "--batch-sizes", "--image-input", "--classifier"):
        assert flag in output


@pytest.mark.parametrize("name", ["model.mlpackage", "model.mlmodel"])
def test_file_of_another_format_is_reported(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ArtifactError, match=name):
        timmx.open(path)
    path.write_bytes(b"not an artifact")
    with pytest.raises(ArtifactError, match=r"not a Core ML model.*\nhint: export the model again"):
        timmx.open(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ArtifactError, match="Core ML"):
        timmx.open(path)
    (path / "Manifest.json").write_text(json.dumps({"itemInfoEntries": {}, "rootModelIdentifier": "a"}))
    with pytest.raises(ArtifactError, match=r"Manifest\.json"):
        timmx.open(path)


def test_model_of_another_kind_is_reported(tmp_path):
    from timmx_coreml.schema import schema

    model = schema("Model_pb2").Model(specificationVersion=4)
    model.description.input.add(name="input")
    model.scaler.scaleValue.append(2)
    path = tmp_path / "model.mlmodel"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="scaler"):
        timmx.open(path)
