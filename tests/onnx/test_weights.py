"""Weights of an `.onnx` file in 8 bits: `--mode weight-int8`."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from timmx_onnx.weights import store_weights

GENERATOR = np.random.default_rng(0)


def model(nodes, **weights) -> ir.Model:
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 32])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [entry], [result], tensors)
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def run(graph: ir.Model, **settings):
    options = onnxruntime.SessionOptions()
    for name, value in settings.items():
        setattr(options, name, value)
    content = ir.serde.serialize_model(graph).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones((2, 32), np.float32)})[0]


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


def test_each_channel_has_a_scale_and_shared_weights_are_stored_once():
    weight = normal(32, 32) * np.linspace(0.01, 1, 32, dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    graph = model(nodes, w=weight)
    expected = run(model(nodes, w=weight))
    assert store_weights(graph) == {"MatMul": 2}
    stored = {name: value.const_value.numpy() for name, value in graph.graph.initializers.items()}
    assert sorted((str(array.dtype), array.shape) for array in stored.values()) == [
        ("float32", (1, 32)),
        ("int8", (32, 32)),
    ]
    scales, integers = sorted(stored.values(), key=lambda array: array.size)
    assert np.abs(integers).max(axis=0).min() == 127
    np.testing.assert_allclose(scales * integers, weight, atol=float(scales.max()) / 2)
    np.testing.assert_allclose(run(graph), expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.zeros((32, 64), np.float32)}),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": normal(32, 8)}),
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": normal(32)}),
        ([helper.make_node("Add", ["x", "w"], ["y"])], {"w": normal(64, 2, 32)}),
    ],
)
def test_zeros_small_weights_and_other_constants_stay_float(nodes, weights):
    graph = model(nodes, **weights)
    assert not store_weights(graph)
    np.testing.assert_array_equal(run(graph), run(model(nodes, **weights)))


@pytest.mark.parametrize(("transposed", "shape"), [(1, (64, 32)), (0, (32, 64))])
def test_a_gemm_has_a_scale_for_each_output(transposed, shape):
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)]
    weights = {"w": normal(*shape), "b": normal(64)}
    graph = model(nodes, **weights)
    assert store_weights(graph) == {"Gemm": 1}
    expected = run(model(nodes, **weights))
    np.testing.assert_allclose(run(graph), expected, atol=0.02 * np.abs(expected).max())


def test_a_quarter_of_the_size_and_the_same_classes(tmp_path, export, digits):
    files = {
        mode: export("onnx", digits, tmp_path / f"{mode}.onnx", mode=mode) for mode in ("fp32", "weight-int8")
    }
    result = files["weight-int8"]
    assert result.precision == "int8-weights"
    assert result.verification.status == "verified"
    assert result.verification.top1_agreement == 1.0
    assert result.verification.outputs[0].snr_db > 25
    assert result.size_bytes < 0.35 * files["fp32"].size_bytes
    proto = onnx.load(result.path)
    layers = sum(node.op_type in ("Conv", "Gemm") for node in proto.graph.node)
    large = [tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.INT8]
    assert result.metadata["format"]["stored_operations"] == len(large) > layers / 2
    assert result.metadata["precision"] == "int8-weights"


def test_onnx_runtime_converts_the_weights_once_when_it_loads_the_file(tmp_path, export, digits):
    path = export("onnx", digits, tmp_path / "a.onnx", mode="weight-int8", verify=False).path
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert not operators & {"Cast", "DequantizeLinear"}


def test_layers_that_lose_too_much_keep_float_weights(tmp_path, export):
    from timmx.testing import awakened_model

    result = export("onnx", awakened_model("test_resnet"), tmp_path / "a.onnx", mode="weight-int8")
    assert result.verification.outputs[0].snr_db > 15
    assert "5 layers keep float weights: 8 bits cost too much accuracy there." in result.notes
    proto = onnx.load(result.path)
    floats = [
        tensor
        for tensor in proto.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= 1024 and len(tensor.dims) > 1
    ]
    assert len(floats) == 5
