"""What a file can make a loader do: read other files, run code, call operations that are not known."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import timmx
import timmx_coreml.package
from security_files import core_ml_network, core_ml_package, litert_file, onnx_file
from timmx.errors import ArtifactError, RuntimeUnavailable, UnsupportedError

# ONNX: weights in other files, operations of other domains


@pytest.fixture
def folder(tmp_path):
    """A folder with weights in it, and weights outside it."""
    inside = tmp_path / "inside"
    (inside / "below").mkdir(parents=True)
    weights = np.ones((4, 4), np.float32).tobytes()
    for path in (tmp_path / "secret", inside / "own.data", inside / "below" / "own.data"):
        path.write_bytes(weights)
    (inside / "link.data").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to(tmp_path)
    return inside


OUTSIDE = (
    "../secret",
    "below/../../secret",
    "{outside}/secret",
    "link.data",
    "up/secret",
    "/dev/zero",
    "a" * 300,
    "..\\secret",
)


@pytest.mark.parametrize("where", ["initializer", "constant", "subgraph"])
@pytest.mark.parametrize("location", OUTSIDE)
def test_onnx_weights_outside_the_folder_are_refused(folder, location, where):
    path = onnx_file(folder / "m.onnx", location.replace("{outside}", str(folder.parent)), where=where)
    with pytest.raises(ArtifactError, match="is not loaded: it names weights in"):
        timmx.open(path)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_commands_refuse_onnx_weights_outside_the_folder(folder, run_timmx, command):
    result = run_timmx(command, onnx_file(folder / "m.onnx", "../secret"))
    assert result.exit_code == 2
    assert "it names weights in '../secret', which is not a file in its folder" in result.stderr


@pytest.mark.parametrize("location", ["own.data", "below/own.data"])
def test_onnx_weights_inside_the_folder_are_read(folder, location):
    with timmx.open(onnx_file(folder / "m.onnx", location)) as runner:
        assert runner.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[4.0] * 4]


def test_onnx_in_a_cache_of_the_hub_is_opened(folder):
    """Both files are links to another folder there."""
    blobs, snapshot = folder / "blobs", folder / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    onnx_file(blobs / "1", "m.onnx.data")
    shutil.copy(folder / "own.data", blobs / "2")
    (snapshot / "m.onnx").symlink_to(os.path.join("..", "blobs", "1"))  # noqa: PTH118 - the text of a link
    (snapshot / "m.onnx.data").symlink_to(os.path.join("..", "blobs", "2"))  # noqa: PTH118
    with timmx.open(snapshot / "m.onnx") as runner:
        assert runner.inputs[0].shape == (1, 4)


def test_onnx_operations_of_unknown_domains_are_refused(folder):
    with pytest.raises(ArtifactError, match=r"my\.domain:MatMul"):
        timmx.open(onnx_file(folder / "m.onnx", "own.data", domain="my.domain"))


# LiteRT: custom operations, weights in other files


@pytest.mark.parametrize("name", ["MyOperation", "FlexErf"])
def test_custom_and_flex_operations_are_refused_by_name(tmp_path, name):
    with pytest.raises(RuntimeUnavailable, match="Erf" if name.startswith("Flex") else name):
        timmx.open(litert_file(tmp_path / "m.tflite", name))


def test_litert_weights_in_other_files_are_refused(tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    def outside(model):
        group, buffer = schema.ExternalBufferGroupT(), schema.ExternalBufferT()
        group.name, buffer.id, buffer.group = "/etc/passwd", 1, 0
        model.externalBufferGroups, model.externalBuffers = [group], [buffer]

    with pytest.raises(ArtifactError, match="weights in other files, which timmx does not open: /etc/passwd"):
        timmx.open(litert_file(tmp_path / "m.tflite", "MyOperation", outside))


# Core ML: links in a package, custom layers


def _nested(layer):
    inner = layer.branch.ifBranch.layers.add(name="inner", input=["input"], output=["output"])
    inner.custom.className = "AppLayer"


def _direct(layer):
    layer.custom.className = "AppLayer"


@pytest.mark.parametrize("add", [_direct, _nested])
def test_custom_layer_is_refused_by_the_name_of_its_class(tmp_path, add):
    path = tmp_path / "m.mlmodel"
    path.write_bytes(core_ml_network(add).SerializeToString())
    with pytest.raises(UnsupportedError, match="a custom layer, the class 'AppLayer' of an app"):
        timmx.open(path)


@pytest.fixture
def package(tmp_path):
    """A package with a neural network of one layer."""
    return core_ml_package(tmp_path, core_ml_network(lambda layer: layer.activation.ReLU.SetInParent()))


@pytest.mark.parametrize("what", ["model", "weights", "manifest", "unused"])
def test_links_out_of_a_package_are_refused(package, tmp_path, what, run_timmx):
    data = package / "Data" / "com.apple.CoreML"
    target = tmp_path / "outside"
    link = {
        "model": data / "model.mlmodel",
        "weights": data / "weights",
        "manifest": package / "Manifest.json",
        "unused": package / "unused",
    }[what]
    if link.is_file():
        link.rename(target)
    else:
        target.mkdir()
    link.symlink_to(target)
    with pytest.raises(ArtifactError, match="is a link to a file outside the package"):
        timmx.open(package)
    result = run_timmx("inspect", package)
    assert result.exit_code == 2
    assert "is a link to a file outside the package" in result.stderr


def test_links_inside_a_package_are_followed(package):
    data = package / "Data" / "com.apple.CoreML"
    (data / "model.mlmodel").rename(data / "real.mlmodel")
    (data / "model.mlmodel").symlink_to("real.mlmodel")
    assert timmx_coreml.package.read(package).kind == "neuralnetwork"
