"""`inspect` reports which operations of a `.tflite` a GPU leaves to the CPU and why, and it reports damaged files."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import timm
import timmx
from timmx.errors import ArtifactError
from timmx_litert.plugin import LiteRTBackend

pytestmark = pytest.mark.usefixtures("export")


def inspect(result):
    return json.loads(json.dumps(LiteRTBackend().inspect(result.path)))


@pytest.mark.parametrize("mode", ["fp32", "fp16", "dynamic-int8", "int8"])
def test_a_gpu_runs_all_of_a_convolutional_network(digits_files, mode):
    assert inspect(digits_files.results[mode])["off_gpu_delegate"] == {}


def test_a_gpu_leaves_integers_of_16_bits_to_the_cpu(digits_files):
    report = inspect(digits_files.results["int16x8"])
    off = report["off_gpu_delegate"]
    assert off["DEPTHWISE_CONV_2D"] == {
        "count": report["operations"]["DEPTHWISE_CONV_2D"],
        "reason": "computes in int16",
    }
    assert {entry["reason"] for entry in off.values()} == {"computes in int16"}


def test_a_gpu_leaves_the_cast_of_image_bytes_to_the_cpu(pixel_files):
    off = inspect(pixel_files.results["fp32"])["off_gpu_delegate"]
    assert off == {"CAST": {"count": 1, "reason": "does not convert uint8 to float32"}}


def test_a_gpu_refuses_a_classifier_with_8_bit_weights_and_float_arithmetic(digits_files):
    report = inspect(digits_files.results["weight-int8"])
    assert report["operations"]["DEQUANTIZE"] > 1
    assert report["off_gpu_delegate"] == {
        "DEQUANTIZE": {
            "count": 1,  # only in the last layer: weights of convolutions have 4 axes
            "reason": "a constant that does not have 4 axes: the delegate refuses the whole model",
        }
    }


def test_a_gpu_refuses_a_class_token_concatenated_with_the_patches(tmp_path):
    model = timm.create_model("test_vit", depth=1)  # not awakened: its biases would be additions
    off = inspect(timmx.export("litert", model, output=tmp_path / "vit.tflite", verify=False))[
        "off_gpu_delegate"
    ]
    assert off == {
        "CONCATENATION": {
            "count": 1,
            "reason": "a constant that does not have 4 axes: the delegate refuses the whole model",
        }
    }


def damaged(whole: bytes, seed: int) -> bytes:
    """Change a few bits or numbers, or cut off the end; the identifier of a LiteRT file stays."""
    rng, content = np.random.default_rng(seed), bytearray(whole)
    for place in rng.integers(0, len(whole) // 4, rng.choice([1, 2, 8, 64])) * 4:
        if rng.random() < 0.5:
            content[place] ^= 1 << rng.integers(8)
        else:
            content[place : place + 4] = struct.pack(
                "<i", rng.choice([-(2**31), -2, -1, 0, 1, 99, 2**31 - 1])
            )
    if rng.random() < 0.1:
        del content[rng.integers(8, len(content)) :]
    content[4:8] = b"TFL3"
    return bytes(content)


def test_damaged_file_is_reported(digits_files, tmp_path):
    path, whole = tmp_path / "out.tflite", digits_files.results["nhwc"].path.read_bytes()
    refused = 0
    for seed in range(300):
        path.write_bytes(damaged(whole, seed))
        try:
            json.dumps(LiteRTBackend().inspect(path))
        except ArtifactError as error:
            refused += "damaged" in str(error)
    assert refused > 30  # the others differ in their weights only


@pytest.fixture(scope="module")
def edited(digits_files, tmp_path_factory):
    """Writes the digits model after a function has changed the objects of its flatbuffer."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    folder = tmp_path_factory.mktemp("edited")
    whole = digits_files.results["fp32"].path.read_bytes()

    def write(change):
        model, builder = schema.ModelT.InitFromPackedBuf(whole, 0), flatbuffers.Builder(len(whole) * 2)
        change(model)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        path = folder / "edited.tflite"
        path.write_bytes(builder.Output())
        return path

    return write


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("operators", "inputs", [9999]),
        ("operators", "inputs", [-2]),
        ("operators", "outputs", [-1]),
        ("operators", "opcodeIndex", 99),
        ("tensors", "buffer", 9999),
    ],
)
def test_indices_out_of_range_are_reported_as_damage(edited, part, field, value):
    path = edited(lambda model: setattr(getattr(model.subgraphs[0], part)[0], field, value))
    with pytest.raises(ArtifactError, match="damaged"):
        LiteRTBackend().inspect(path)


def test_operations_newer_than_the_delegate_are_reported(edited):
    def change(model):
        for code in model.operatorCodes:
            if code.builtinCode == 3:  # CONV_2D
                code.version = 8
            if code.builtinCode == 14:  # LOGISTIC
                code.builtinCode = 56  # ARG_MAX, which the delegate never had
                code.deprecatedBuiltinCode = 56

    report = LiteRTBackend().inspect(edited(change))
    assert {kind: entry["reason"] for kind, entry in report["off_gpu_delegate"].items()} == {
        "CONV_2D": "version 8, and the delegate takes 6",
        "ARG_MAX": "the delegate has no such operation",
    }


def test_every_reason_of_a_kind_is_reported(edited):
    def change(model):
        graph = model.subgraphs[0]
        means = [op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode == 40]
        graph.tensors[means[0].inputs[1]].type = 4  # its axes in int64
        graph.tensors[means[-1].inputs[0]].shape = [1, 1, 2, 2, 192]
        assert [mean.inputs[1] == means[0].inputs[1] for mean in means] == [True, True, False]

    off = LiteRTBackend().inspect(edited(change))["off_gpu_delegate"]
    assert off["MEAN"] == {
        "count": 3,
        "reason": "takes only constant axes of int32; 5 axes, and the delegate takes 4",
    }
