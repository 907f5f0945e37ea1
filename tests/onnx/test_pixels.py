"""The bytes of an image as the input of an `.onnx` file: `--io uint8`."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import timmx
from conftest import DIGITS
from timmx.plugin import OpenSettings, TensorSpec, feed
from timmx.registry import load

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
BYTES = {"io": "uint8", "normalize": True}


def outputs(path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs})[0]


@pytest.mark.parametrize("mode", ["fp32", "fp16", "weight-int8", "weight-int4"])
def test_bytes_give_the_outputs_of_a_float_file(tmp_path, export, digits, mode):
    options = {"mode": mode, "dynamic_batch": True}
    result = export("onnx", digits, tmp_path / "bytes.onnx", **BYTES, **options)
    assert result.verification.status == "verified"
    float_file = export("onnx", digits, tmp_path / "a.onnx", normalize=True, verify=False, **options)
    expected = outputs(float_file.path, np.ascontiguousarray(PIXELS.transpose(0, 3, 1, 2)) / np.float32(255))
    np.testing.assert_allclose(outputs(result.path, PIXELS), expected, rtol=1e-3, atol=1e-3)
    (entry,) = onnx.load(result.path).graph.input
    kind = entry.type.tensor_type
    assert (entry.name, kind.elem_type) == ("input", onnx.TensorProto.UINT8)
    assert [size.dim_param or size.dim_value for size in kind.shape.dim] == ["batch", 64, 64, 3]
    facts = result.metadata["input"]
    assert (facts["dtype"], facts["layout"], facts["normalization"]) == ("uint8", "NHWC", "graph")
    assert "quantization" not in facts


def test_the_runner_reports_the_layout(tmp_path, export, digits):
    path = export("onnx", digits, tmp_path / "a.onnx", verify=False, batch_size=2, **BYTES).path
    with load("onnx").open(path, OpenSettings()) as runner:
        (spec,) = runner.inputs
        assert spec == TensorSpec(name="input", shape=(2, 64, 64, 3), dtype="uint8", layout="NHWC")
        floats = PIXELS.transpose(0, 3, 1, 2) / np.float32(255)
        np.testing.assert_array_equal(feed(spec, floats), PIXELS)


def test_equal_exports_have_equal_bytes(tmp_path, export, digits):
    first, second = (
        export("onnx", digits, tmp_path / f"{name}.onnx", verify=False, **BYTES).path.read_bytes()
        for name in "ab"
    )
    assert first == second


def test_bytes_without_normalization_are_refused(tmp_path):
    with pytest.raises(timmx.ConfigurationError, match="--io uint8 takes image bytes") as caught:
        timmx.export("onnx", "test_resnet", output=tmp_path / "a.onnx", io="uint8")
    assert caught.value.hint == "add --normalize"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["predict", "eval", "bench", "verify", "compare"])
def test_commands_take_the_file(tmp_path, export, digits, run_timmx, command):
    path = export("onnx", digits, tmp_path / "a.onnx", verify=False, **BYTES).path
    samples = DIGITS / "samples"
    arguments = {
        "predict": [samples / "3"],
        "eval": ["--data", samples],
        "bench": ["--seconds", "0.1"],
        "verify": ["--against", digits],
        "compare": [],
    }[command]
    result = run_timmx(command, path.parent if command == "compare" else path, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    if command == "eval":
        assert found["top1"] > 0.98
    if command == "predict":
        labels = [image["predictions"][0]["label"] for image in found["images"]]
        assert labels.count("3") > 0.9 * len(labels)
