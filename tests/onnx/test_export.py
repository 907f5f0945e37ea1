"""`timmx onnx` on the command's API; the files are read by `onnx` and ONNX Runtime without timmx."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import timmx
import torch
from timmx.contract import OpenSettings
from timmx.registry import discovery as registry

pytestmark = pytest.mark.usefixtures("export")


def export(model, path, **options):
    result = registry.load("onnx").create_command()(model=model, output=path, **options)
    assert result.verification.status == "verified"
    return result


ONE_BLOCK = {"depth": 1}
"""Of a vision transformer: more blocks repeat the same operations."""


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_digits_with_a_dynamic_batch(tmp_path, digits):
    path = tmp_path / "digits.onnx"
    result = export(digits, path, dynamic_batch=True, normalize=True, softmax=True)
    assert result.verification.top1_agreement == 1.0
    assert result.verification.batch_sizes == (1, 2, 3)
    assert list(tmp_path.iterdir()) == [path]

    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(value.name, dims(value)) for value in proto.graph.input] == [("input", ["batch", 3, 64, 64])]
    assert [(value.name, dims(value)) for value in proto.graph.output] == [("output", ["batch", 10])]
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}

    (entry,) = proto.metadata_props
    metadata = json.loads(entry.value)
    assert metadata == result.metadata
    assert metadata["schema"] == 1
    head = {"activation": "softmax", "exclusive": True}
    assert metadata["outputs"] == [
        {"name": "output", "kind": "probabilities", "shape": ["batch", 10], **head}
    ]
    assert metadata["input"]["value_range"] == [0.0, 1.0]
    assert len(metadata["labels"]) == 10
    assert metadata["batch"] == {"dynamic": True}

    images = np.random.default_rng(0).random((5, 3, 64, 64), dtype=np.float32)
    (probabilities,) = session(path).run(["output"], {"input": images})
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_file_has_no_paths_of_the_machine(tmp_path, awakened):
    path = tmp_path / "model.onnx"
    checkpoint = awakened("test_vit", **ONE_BLOCK)
    export("test_vit", path, checkpoint=checkpoint, model_kwargs=ONE_BLOCK, optimize=False)
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_same_export_gives_the_same_bytes(tmp_path, digits, exported_digits):
    export(digits, tmp_path / "digits.onnx")
    assert (tmp_path / "digits.onnx").read_bytes() == exported_digits("onnx").read_bytes()


@pytest.mark.parametrize("opset", [18, 20, 22, 23])
def test_file_has_the_requested_opset(tmp_path, awakened, opset):
    path = tmp_path / "model.onnx"
    export(
        "test_vit", path, checkpoint=awakened("test_vit", **ONE_BLOCK), model_kwargs=ONE_BLOCK, opset=opset
    )
    proto = onnx.load(path)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == opset
    assert ("LayerNormalization" in {node.op_type for node in proto.graph.node}) is True


def test_external_data_is_published_and_removed_with_the_file(tmp_path, awakened):
    path = tmp_path / "model.onnx"
    checkpoint = awakened("test_resnet")
    result = export("test_resnet", path, checkpoint=checkpoint, external_data=True)
    assert result.files == (path, tmp_path / "model.onnx.data")
    locations = {
        entry.value
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert locations == {"model.onnx.data"}
    assert result.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    session(path)
    export("test_resnet", path, checkpoint=checkpoint)
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_a_copy_keeps_the_weights_of_its_original(tmp_path, digits, exported_digits):
    first, copy = tmp_path / "digits.onnx", tmp_path / "copy.onnx"
    for file in exported_digits("onnx", external_data=True).parent.glob("digits.onnx*"):
        shutil.copy(file, tmp_path)
    copy.write_bytes(first.read_bytes())
    export(digits, copy)
    session(first)
    session(copy)


def test_file_of_the_user_next_to_the_output_is_never_replaced(tmp_path, digits):
    user_file = tmp_path / "digits.onnx.data"
    user_file.write_text("precious")
    with pytest.raises(timmx.ArtifactError, match="not part of the artifact"):
        export(digits, tmp_path / "digits.onnx", external_data=True)
    assert user_file.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [user_file]


def test_fp16_halves_the_file_and_keeps_float32_inputs_and_outputs(tmp_path, awakened):
    model = {"checkpoint": awakened("test_vit", **ONE_BLOCK), "model_kwargs": ONE_BLOCK}
    full = export("test_vit", tmp_path / "full.onnx", **model)
    half = export("test_vit", tmp_path / "half.onnx", mode="fp16", normalize=True, softmax=True, **model)
    assert half.precision == "fp16"
    assert half.size_bytes < 0.6 * full.size_bytes
    assert half.verification.floor_db == 22
    run = session(tmp_path / "half.onnx")
    assert {value.type for value in [*run.get_inputs(), *run.get_outputs()]} == {"tensor(float)"}


def test_values_that_overflow_float16_stay_float32_with_a_note(tmp_path):
    """efficientvit_b0's linear attention reaches 1.7e8 on random weights; a CPU would hide the overflow."""
    import timm
    import torch
    from timmx.testing import awaken

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = awaken(timm.create_model("efficientvit_b0", depths=(1, 1, 1, 1, 1)))
    result = export(model, tmp_path / "half.onnx", mode="fp16", input_size=(3, 96, 96))
    assert any("near float16's limit" in note for note in result.notes)


def test_relative_positions_are_translated(tmp_path, awakened):
    checkpoint = awakened("test_vit_relpos", **ONE_BLOCK)
    export("test_vit_relpos", tmp_path / "model.onnx", checkpoint=checkpoint, model_kwargs=ONE_BLOCK)


def test_a_feature_pyramid_has_named_outputs(tmp_path, awakened):
    path = tmp_path / "features.onnx"
    result = export(
        "test_resnet",
        path,
        checkpoint=awakened("test_resnet", features_only=True),
        features=True,
        out_indices=(1, 2),
    )
    assert [item["name"] for item in result.metadata["outputs"]] == ["features_0", "features_1"]
    assert {item["kind"] for item in result.metadata["outputs"]} == {"features"}
    assert [value.name for value in session(path).get_outputs()] == ["features_0", "features_1"]


def test_an_embedding_and_four_channels(tmp_path, awakened):
    path = tmp_path / "embedding.onnx"
    checkpoint = awakened("test_resnet", num_classes=0, in_chans=4)
    result = export("test_resnet", path, checkpoint=checkpoint, num_classes=0, in_chans=4, batch_size=2)
    assert result.metadata["outputs"] == [{"name": "embedding", "kind": "embedding", "shape": [2, 96]}]
    assert dims(onnx.load(path).graph.input[0])[:2] == [2, 4]
    assert result.metadata["input"]["color_order"] is None


def test_weights_too_large_for_one_file_are_refused_with_a_hint(tmp_path, monkeypatch):
    for module in ("plugin", "export"):
        monkeypatch.setattr(f"timmx_onnx.{module}.ONE_FILE", 1000)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    output = tmp_path / "model.onnx"
    with pytest.raises(timmx.UnsupportedError, match="--no-external-data"):
        timmx.export("onnx", model, external_data=False, output=output)
    assert list(tmp_path.iterdir()) == []
    result = timmx.export("onnx", model, output=output)
    assert len(result.files) == 2


def test_threads_that_verify_a_file_do_not_spin(exported_digits):
    with registry.load("onnx").open_exported(exported_digits("onnx"), None, OpenSettings()) as runner:
        options = runner._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
