"""Numbers, names and structures that do not fit: each file ends in one error line, with exit code 2."""

from __future__ import annotations

import contextlib
import json
import zipfile

import numpy as np
import pytest
import timmx
from PIL import Image
from security_files import (
    core_ml_constant,
    core_ml_network,
    core_ml_package,
    core_ml_program,
    litert_file,
    onnx_file,
)
from timmx.errors import TimmxError

INT16, FLOAT16, FLOAT32 = 22, 10, 11
"""Data types of MIL."""


@pytest.fixture
def refused(run_timmx):
    """Check that `inspect` refuses a file with an error that contains a text, and that `open` fails no other way."""

    def check(path, text, command="inspect"):
        with contextlib.suppress(TimmxError):
            timmx.open(path).close()
        result = run_timmx(command, path)
        assert result.exit_code == 2, result.stderr
        assert [line for line in result.stderr.splitlines() if line.startswith("error:")] == [
            result.stderr.splitlines()[0]
        ]
        assert text in result.stderr

    return check


MANIFESTS = {
    "deep": ("[" * 5000, "Manifest.json cannot be read"),
    "list": ("[]", "Manifest.json cannot be read"),
    "long name": (
        json.dumps({"itemInfoEntries": {"1": {"path": "a" * 300}}, "rootModelIdentifier": "1"}),
        "is missing",
    ),
    "half of a pair": (
        '{"itemInfoEntries": {"1": {"path": "\\ud800"}}, "rootModelIdentifier": "1"}',
        "Manifest.json cannot be read",
    ),
    "null": ('{"itemInfoEntries": {"1": {"path": "a\\u0000b"}}, "rootModelIdentifier": "1"}', "is missing"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests(tmp_path, refused, name):
    text, message = MANIFESTS[name]
    path = core_ml_package(tmp_path, core_ml_network(lambda layer: layer.activation.ReLU.SetInParent()))
    (path / "Manifest.json").write_text(text)
    refused(path, message)


def test_model_without_outputs(tmp_path, refused):
    model = core_ml_network(lambda layer: layer.activation.ReLU.SetInParent())
    del model.description.output[:]
    refused(core_ml_package(tmp_path, model), "describes no output")


def _weights(block, *, offset=64, name="@model_path/weights/weight.bin", sizes=(4,)):
    value = core_ml_constant(block, FLOAT16, *sizes)
    value.blobFileValue.fileName, value.blobFileValue.offset = name, offset


PROGRAMS = {
    "offset": (lambda block: _weights(block, offset=2**63 + 64), "end at byte"),
    "name": (lambda block: _weights(block, name="@model_path/" + "a" * 300), "does not exist"),
    "outside": (lambda block: _weights(block, name="@model_path/../../x"), "is not a path inside the model"),
    "no outputs": (lambda block: block.operations.add(type="relu"), "has no outputs"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(tmp_path, refused, name):
    change, message = PROGRAMS[name]
    path = core_ml_package(tmp_path, core_ml_program(change))
    weights = path / "Data" / "com.apple.CoreML" / "weights"
    weights.mkdir()
    (weights / "weight.bin").write_bytes(bytes(256))
    refused(path, message)


def test_constant_with_too_many_dimensions(tmp_path, refused):
    def add(block):
        value = core_ml_constant(block, FLOAT16, *[2**62] * 10_000)
        value.blobFileValue.fileName = "@model_path/weights/weight.bin"
        value.blobFileValue.offset = 64

    path = core_ml_package(tmp_path, core_ml_program(add))
    (path / "Data" / "com.apple.CoreML" / "weights").mkdir()
    (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").write_bytes(bytes(256))
    refused(path, "has 10,000 dimensions")


def _odd_numbers(block):
    core_ml_constant(block, INT16, 1).immediateValue.tensor.ints.values.append(2**31 - 1)


def _huge(block):
    core_ml_constant(block, FLOAT32, 0, 2**63 + 1).immediateValue.tensor.floats.SetInParent()


def _overflow(block):
    core_ml_constant(block, FLOAT32, 0, 2**39, 2**39).immediateValue.tensor.floats.SetInParent()


@pytest.mark.parametrize("change", [_odd_numbers, _huge, _overflow])
def test_constants_that_torch_cannot_hold(tmp_path, change):
    with pytest.raises(TimmxError, match=r"damaged|declares a tensor"):
        timmx.open(core_ml_package(tmp_path, core_ml_program(change)))


def test_class_without_a_name(tmp_path):
    def classify(block):
        operation = block.operations.add(type="classify")
        value = operation.inputs["classes"].arguments.add().value
        value.immediateValue.list.values.add()

    model = core_ml_program(classify)
    model.description.predictedFeatureName = "label"
    with pytest.raises(TimmxError):
        timmx.open(core_ml_package(tmp_path, model))


# ONNX


def _unknown_type(model):
    model.graph.input[0].type.tensor_type.elem_type = 999


def test_onnx_element_type_of_a_later_version(tmp_path, run_timmx):
    path = onnx_file(tmp_path / "m.onnx", "own.data", change=_unknown_type)
    (tmp_path / "own.data").write_bytes(bytes(64))
    result = run_timmx("inspect", path)
    assert result.exit_code == 0
    assert "type 999" in result.stdout


@pytest.mark.parametrize("sizes", [[2**62] * 300_000, [-5]])
def test_onnx_weight_with_an_impossible_shape(tmp_path, refused, sizes):
    def change(model):
        model.graph.initializer[0].dims.extend(sizes)

    path = onnx_file(tmp_path / "m.onnx", "own.data", change=change)
    (tmp_path / "own.data").write_bytes(bytes(64))
    refused(path, "has an impossible shape")


@pytest.mark.parametrize("command", ["inspect", "open"])
@pytest.mark.parametrize(
    "replaced", [b"MatMul", b"op_x", b"data_y"], ids=["operation", "name of a node", "text of a node"]
)
def test_onnx_text_that_is_not_utf_8(tmp_path, refused, replaced, command):
    def change(model):
        model.graph.node[0].name = "op_x"
        model.graph.node[0].doc_string = "data_y"

    path = onnx_file(tmp_path / "m.onnx", "own.data", change=change)
    (tmp_path / "own.data").write_bytes(bytes(64))
    content = path.read_bytes()
    assert replaced in content
    path.write_bytes(content.replace(replaced, b"\xff" + replaced[1:]))
    if command == "inspect":
        refused(path, "is not UTF-8 text")
    else:
        with pytest.raises(timmx.ArtifactError, match=r"not UTF-8|cannot load|is damaged"):
            timmx.open(path)


def test_onnx_graph_without_outputs(tmp_path):
    path = onnx_file(tmp_path / "m.onnx", "own.data", change=lambda model: model.graph.ClearField("output"))
    (tmp_path / "own.data").write_bytes(bytes(64))
    with pytest.raises(timmx.ArtifactError, match="no inputs or no outputs"):
        timmx.open(path)


# LiteRT


def _signature(model):
    from ai_edge_litert import schema_py_generated as schema

    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = (
        schema.BuiltinOperator.RELU
    )
    model.operatorCodes[0].customCode = None
    signature, entry, output = schema.SignatureDefT(), schema.TensorMapT(), schema.TensorMapT()
    signature.signatureKey = "serving_default"
    entry.name, entry.tensorIndex, output.name, output.tensorIndex = "input", 0, "output", 1
    signature.inputs, signature.outputs = [entry], [output]
    model.signatureDefs = [signature]


def _missing_tensor(model):
    _signature(model)
    model.signatureDefs[0].inputs[0].tensorIndex = 2**31


def _many_axes(model):
    model.subgraphs[0].tensors[0].shape = [1] * 70


def _missing_operator(model):
    model.subgraphs[0].operators[0].opcodeIndex = 5


@pytest.mark.parametrize("change", [_missing_tensor, _many_axes, _missing_operator])
def test_litert_structures(tmp_path, refused, change):
    refused(litert_file(tmp_path / "m.tflite", "", change), "is damaged")


def test_litert_tensor_larger_than_memory(tmp_path):
    def change(model):
        _signature(model)
        model.subgraphs[0].tensors[1].shape = [16_711_681, 1, 1, 192]

    with pytest.raises(timmx.ArtifactError, match="a tensor of 16711681 x 1 x 1 x 192 numbers"):
        timmx.open(litert_file(tmp_path / "m.tflite", "", change))


@pytest.mark.parametrize("device", [[], True, "tpu"])
def test_pt2_device_that_does_not_exist(export, exported_digits, tmp_path, device):
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(exported_digits("torch-export")) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if b'"schema"' in content and b'"format"' in content:
                metadata = json.loads(content)
                metadata["format"]["device"] = device
                content = json.dumps(metadata).encode()
            target.writestr(member, content)
    with pytest.raises(timmx.ArtifactError, match=r"format\.device is"):
        timmx.open(path)


def test_attached_files_that_are_too_large(tmp_path, refused):
    path = litert_file(tmp_path / "m.tflite", "", _signature)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("labels.txt", "w") as file:
        for _ in range(300):
            file.write(bytes(2**20))
    refused(path, "they have 314,572,800 bytes, and may have 268,435,456")


# Engines


@pytest.mark.parametrize(
    "engine",
    ["[]", '"x"', "null", '{"rebuild": 5}', '{"plan_sha256": []}', '{"float32_nodes": 1e308}', "[" * 5000],
)
def test_descriptions_of_engines(tmp_path, refused, engine):
    path = tmp_path / "m.engine"
    path.write_bytes(b"\0plan")
    path.with_name("m.engine.json").write_text(f'{{"engine": {engine}}}')
    refused(path, "damaged")


def test_description_of_an_engine_cannot_replace_facts(tmp_path, run_timmx):
    import hashlib

    path = tmp_path / "m.engine"
    path.write_bytes(b"\0plan")
    facts = {"plan_sha256": hashlib.sha256(b"\0plan").hexdigest(), "operations": [], "inputs": 5}
    path.with_name("m.engine.json").write_text(json.dumps({"engine": facts}))
    assert run_timmx("inspect", path).exit_code == 0


def test_images_and_files_fit(tmp_path, run_timmx):
    """The files above are valid but for one thing."""
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "image.png")
    path = litert_file(tmp_path / "m.tflite", "", _signature)
    assert run_timmx("inspect", path).exit_code == 0
    assert run_timmx("inspect", core_ml_package(tmp_path, core_ml_program(lambda block: None))).exit_code == 0
    with timmx.open(tmp_path / "m.mlpackage") as runner:
        assert runner.run({"input": np.ones((1, 4), np.float32)})["output"].shape == (1, 4)
