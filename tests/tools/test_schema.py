"""Invalid metadata is one clear error in every command."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import onnx
import pytest
from timmx.artifact.opening import backend_for
from timmx.cli.application import app
from timmx.contract.metadata import Metadata
from timmx.errors import ArtifactError
from typer.testing import CliRunner

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "samples"
REMOVED = object()

WRONG = {
    "schema": [True, 2, "1", None],
    "model": [REMOVED, "digits", []],
    "model.name": [REMOVED, 3],
    "model.weights_sha256": [REMOVED],
    "model.trained": ["yes"],
    "input": [None],
    "input.size": [[3, 64], [3, 64, 0], "3x64x64", [True, 64, 64]],
    "input.mean": [[0.3], [0.3, 0.3, float("nan")], None],
    "input.std": [[1, 1, 0]],
    "input.layout": ["NCWH"],
    "input.normalization": ["both"],
    "input.crop_pct": [0, -1, "1"],
    "input.crop_mode": ["middle"],
    "input.color_order": [["RGB"], "L", REMOVED],
    "input.quantization": [{"scale": 0, "zero_point": 0}, 3],
    "outputs": [[], {}, [{}], [{"name": "output", "kind": "logits"}]],
    "labels": [["a", "b", "c"], "digits", [str(number % 9) for number in range(10)], REMOVED],
    "batch": [{}, {"size": -2}, {"size": 0}, {"dynamic": False}],
    "precision": [None],
    "versions": ["1.0"],
}
CASES = [(where, value) for where, values in WRONG.items() for value in values]


@pytest.fixture(scope="module")
def file(exported_digits) -> Path:
    return exported_digits("onnx")


def edited(metadata: dict, where: str, value: object) -> dict:
    changed = copy.deepcopy(metadata)
    *path, key = where.split(".")
    place = changed
    for step in path:
        place = place[step]
    if value is REMOVED:
        del place[key]
    else:
        place[key] = value
    return changed


def written(file: Path, metadata: dict, to: Path) -> Path:
    model = onnx.load(file)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "timmx")
    entry.value = json.dumps(metadata)
    onnx.save(model, to)
    return to


def stated(file: Path) -> dict:
    (entry,) = (entry for entry in onnx.load(file).metadata_props if entry.key == "timmx")
    return json.loads(entry.value)


@pytest.mark.parametrize(("where", "value"), CASES)
def test_invalid_values_are_refused(file, where, value):
    with pytest.raises(ArtifactError, match=where.split(".")[0]):
        Metadata.parse(file, edited(stated(file), where, value))


EXPORTS = {
    "onnx": ("onnx", {}),
    "onnx-normalize-softmax": ("onnx", {"normalize": True, "softmax": True}),
    "onnx-dynamic": ("onnx", {"dynamic_batch": True}),
    "torch-export": ("torch-export", {}),
    "litert": ("litert", {}),
    "litert-uint8": (
        "litert",
        {"io": "uint8", "normalize": True, "mode": "int8", "calibration_data": SAMPLES},
    ),
    "coreml": ("coreml", {}),
    "coreml-image": ("coreml", {"normalize": True, "image_input": True, "classifier": True}),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_metadata_is_the_same_after_parsing_and_writing(exported_digits, name: str):
    backend, options = EXPORTS[name]
    path = exported_digits(backend, **options)
    content = backend_for(path).read_metadata(path)
    metadata = Metadata.parse(path, content)
    assert metadata.to_json() == content
    toolchain = backend_for(path).toolchain
    assert metadata.versions.keys() == {"timmx-core", f"timmx-{backend}", "timm", "torch", *toolchain}


@pytest.fixture(scope="module")
def feature_levels(export, tmp_path_factory) -> dict:
    """What `timmx onnx --json` prints about an export of two feature levels."""
    output = tmp_path_factory.mktemp("features") / "f.onnx"
    arguments = ["onnx", "test_resnet", "--features", "--out-indices", "1,3", "-o", str(output), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_versions_are_those_of_the_core_the_backend_and_its_toolchain_in_this_order(feature_levels):
    versions = feature_levels["metadata"]["versions"]
    core = ["timmx-core", "timmx-onnx", "timm", "torch"]
    assert list(versions) == [*core, "onnx", "onnxscript", "onnx-ir", "onnxruntime"]
    assert versions["onnx"] == onnx.__version__


def test_keys_in_the_file_have_the_documented_order(file):
    """`--json` shows them in this order; in the file they are sorted."""
    shown = Metadata.parse(file, stated(file)).to_json()
    documented = json.loads(
        (SAMPLES.parents[2] / "docs" / "metadata.md").read_text("utf-8").split("```json")[1].split("```")[0]
    )
    assert list(shown) == list(documented)
    assert list(shown["input"]) == list(documented["input"])


def test_newer_keys_of_schema_1_are_ignored_and_shown(file, tmp_path, run_timmx):
    content = stated(file) | {"added_later": 1}
    content["input"]["added_later"] = 2
    path = written(file, content, tmp_path / "newer.onnx")
    shown = json.loads(run_timmx("inspect", path, "--json").stdout)
    assert shown["metadata"] == content
    assert Metadata.parse(path, content) == Metadata.parse(file, stated(file))


@pytest.mark.parametrize(
    "command", ["inspect", "predict", "eval", "verify", "bench", "inspect --snippet python"]
)
def test_every_command_reports_it(file, tmp_path, run_timmx, command):
    further = {"predict": [SAMPLES / "3"], "eval": ["--data", SAMPLES]}.get(command, [])
    for where, value in (("model", REMOVED), ("input.crop_pct", 0), ("labels", ["a", "b", "c"])):
        path = written(file, edited(stated(file), where, value), tmp_path / "edited.onnx")
        done = run_timmx(*command.split(), path, *further)
        assert done.exit_code == 2, done.output
        assert "damaged: its metadata is not what timmx writes" in done.stderr


def test_metadata_of_another_graph_is_refused(file, tmp_path, run_timmx):
    metadata = stated(file)
    wider = edited(metadata, "outputs", [{"name": "output", "kind": "logits", "shape": [1, 12]}])
    for changed in (edited(wider, "labels", None), edited(metadata, "input.size", [3, 32, 32])):
        path = written(file, changed, tmp_path / "edited.onnx")
        done = run_timmx("predict", path, SAMPLES / "3")
        assert done.exit_code == 2, done.output
        assert "do not match its metadata" in done.stderr


def test_selected_feature_levels_are_verified_from_the_metadata_only(feature_levels, run_timmx):
    done = run_timmx("verify", feature_levels["path"])
    assert done.exit_code == 0, done.stderr
    assert "other weights" not in done.stderr
