"""Files of two exports, mixed: an error for every command, not a wrong answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timmx
from timmx.base import files
from timmx.errors import ArtifactError
from typer.testing import CliRunner

IMAGES = Path(__file__).resolve().parents[2] / "examples" / "digits" / "samples" / "3"


@pytest.fixture(scope="module")
def pair(exported_digits) -> Path:
    return exported_digits("onnx", external_data=True)


@pytest.fixture
def mixed(pair, tmp_path) -> Path:
    """A file next to the weights of another one, of the same size."""
    for path in (pair, pair.with_name("digits.onnx.data")):
        shutil.copy(path, tmp_path)
    data = tmp_path / "digits.onnx.data"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    return tmp_path / "digits.onnx"


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "FILE"],
        ["inspect", "FILE", "--snippet", "python"],
        ["predict", "FILE", str(IMAGES)],
        ["eval", "FILE", "--data", str(IMAGES.parent), "--limit", "2"],
        ["verify", "FILE"],
        ["bench", "FILE", "--seconds", "0.1"],
        ["compare", "FOLDER"],
    ],
    ids=lambda words: " ".join(words[:1] + words[2:3]),
)
def test_every_command_refuses_a_mixed_pair(mixed, words, monkeypatch):
    from timmx.cli import app

    monkeypatch.chdir(mixed.parent)
    words = [{"FILE": str(mixed), "FOLDER": str(mixed.parent)}.get(word, word) for word in words]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.output
    assert "digits.onnx.data is not the file that digits.onnx was written with" in done.stderr.replace(
        "\n", " "
    )


def test_python_refuses_a_mixed_pair_and_a_file_without_its_data(mixed):
    from timmx_onnx import OnnxBackend
    from timmx_tensorrt.typed_runner import TypedRunner

    for opening in (timmx.open, TypedRunner, OnnxBackend().read_metadata):
        with pytest.raises(ArtifactError, match="is not the file that"):
            opening(mixed)
    (mixed.parent / "digits.onnx.data").unlink()
    for opening in (timmx.open, OnnxBackend().read_metadata):
        with pytest.raises(ArtifactError, match=r"digits\.onnx\.data"):
            opening(mixed)


def test_the_weights_to_copy_are_named(mixed, run_timmx):
    (mixed.parent / "digits.onnx.data").unlink()
    for words in (("inspect", mixed), ("predict", mixed, next(IMAGES.glob("*.png")))):
        result = run_timmx(*words)
        assert result.exit_code == 2
        assert "digits.onnx.data is missing, and digits.onnx needs it" in result.stderr.replace("\n", " ")
        assert "hint: copy digits.onnx.data into the folder of digits.onnx" in result.stderr


def test_the_weights_of_a_file_of_another_tool_are_named(tmp_path, run_timmx):
    import onnx

    tensor = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="model.bin")
    node = onnx.helper.make_node("Identity", ["w"], ["y"])
    value = onnx.helper.make_tensor_value_info("y", 1, [4])
    graph = onnx.helper.make_graph([node], "g", [], [value], [tensor])
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    result = run_timmx("inspect", path)
    assert result.exit_code == 2
    assert "hint: copy model.bin into the folder of m.onnx" in result.stderr
    (tmp_path / "model.bin").write_bytes(bytes(16))
    assert run_timmx("inspect", path).exit_code == 0


def test_a_copy_is_compared_with_the_weights_that_it_refers_to(pair, mixed):
    copy = shutil.copy(mixed, mixed.with_name("copy.onnx"))
    with pytest.raises(ArtifactError, match="is not the file that"):
        timmx.open(copy)
    shutil.copy(pair.with_name("digits.onnx.data"), mixed.parent)
    timmx.open(copy).close()


def test_weights_that_were_put_into_the_file_are_not_compared(pair, tmp_path):
    import onnx
    from timmx_onnx import OnnxBackend

    onnx.save(onnx.load(pair), tmp_path / "inside.onnx")
    assert OnnxBackend().read_metadata(tmp_path / "inside.onnx") == OnnxBackend().read_metadata(pair)
    timmx.open(tmp_path / "inside.onnx").close()


def test_the_metadata_of_another_engine_is_refused(pair, tmp_path):
    from timmx.contract import Metadata
    from timmx_onnx import OnnxBackend
    from timmx_tensorrt import sidecar
    from timmx_tensorrt.plugin import TensorRTBackend

    engine = tmp_path / "digits.engine"
    engine.write_bytes(b"\0 plan")
    metadata = Metadata.parse(pair, OnnxBackend().read_metadata(pair))
    sidecar.write(engine, metadata, {"plan_sha256": files.sha256(engine)})
    assert TensorRTBackend().read_metadata(engine)["model"] == json.loads(metadata.dumps())["model"]
    engine.write_bytes(b"\0 other")
    for reading in (TensorRTBackend().read_metadata, TensorRTBackend().inspect):
        with pytest.raises(ArtifactError, match=r"not the engine that digits\.engine\.json describes"):
            reading(engine)


def test_a_large_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LARGE_BYTES", 1)
    calls = []
    real = files._sha256
    monkeypatch.setattr(files, "_sha256", lambda path: calls.append(path) or real(path))
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = files.sha256(path)
    assert files.sha256(path) == first
    assert len(calls) == 1
    other = tmp_path / "other"
    other.write_bytes(b"two")
    other.replace(path)
    assert files.sha256(path) != first


def test_a_pipe_in_place_of_a_companion_is_not_read(tmp_path):
    import os

    os.mkfifo(tmp_path / "m.data")
    with pytest.raises(ArtifactError, match="is not a file"):
        files.check_companion(tmp_path / "m.onnx", tmp_path / "m.data", "0" * 64)
