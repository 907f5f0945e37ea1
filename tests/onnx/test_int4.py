"""Weights of an `.onnx` file in 4 bits: `--mode weight-int4`."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import timmx
from onnx import TensorProto, helper, numpy_helper
from timmx_onnx.int4 import store_in_blocks
from timmx_onnx.proto import inspect

GENERATOR = np.random.default_rng(0)


def model(nodes, **weights) -> ir.Model:
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [entry], [result], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.serde.deserialize_model(proto)


def run(graph: ir.Model, inputs: np.ndarray) -> np.ndarray:
    proto = ir.serde.serialize_model(graph)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": inputs})[0]


def fifteen_levels(rows: int, columns: int) -> np.ndarray:
    """A matrix that 4 bits represent exactly: integers from -7 to 8 in each block of a column, times its scale."""
    integers = GENERATOR.integers(-7, 9, (rows, columns))
    integers[::32], integers[1::32] = -7, 8
    return (integers * np.exp2(GENERATOR.integers(-6, 0, columns))).astype(np.float32)


def nodes_of(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]


INPUTS = GENERATOR.normal(size=(3, 64)).astype(np.float32)


def test_matrices_that_4_bits_represent_give_the_same_outputs():
    matrix = fifteen_levels(64, 48)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = model(nodes, w=matrix)
    assert store_in_blocks(graph) == {"MatMul": 1}
    assert nodes_of(graph) == ["MatMulNBits"]
    (node,) = graph.graph
    assert "accuracy_level" not in node.attributes  # the activations are not rounded
    np.testing.assert_allclose(run(graph, INPUTS), INPUTS @ matrix, atol=1e-4)
    stored = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    assert stored == 64 * 48 / 2 + 2 * 48 * (4 + 0.5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [1, 0])
def test_a_gemm_becomes_a_product_and_a_sum(transposed, bias):
    matrix, offsets = fifteen_levels(64, 48), GENERATOR.normal(size=48).astype(np.float32)
    weights = {"w": np.ascontiguousarray(matrix.T) if transposed else matrix} | (
        {"b": offsets} if bias else {}
    )
    graph = model([helper.make_node("Gemm", ["x", *weights], ["y"], transB=transposed)], **weights)
    assert store_in_blocks(graph) == {"Gemm": 1}
    assert nodes_of(graph) == (["MatMulNBits", "Add"] if bias else ["MatMulNBits"])
    np.testing.assert_allclose(run(graph, INPUTS), INPUTS @ matrix + (offsets if bias else 0), atol=1e-4)


def test_shared_weights_are_stored_once():
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    graph = model(nodes, w=fifteen_levels(64, 64))
    assert store_in_blocks(graph) == {"MatMul": 2}
    assert len(graph.graph.initializers) == 3


@pytest.mark.parametrize(
    ("operator", "shape", "attributes"),
    [
        ("MatMul", (2, 64, 32), {}),
        ("MatMul", (64, 8), {}),
        ("Gemm", (64, 32), {"alpha": 0.5}),
        ("Add", (32, 64), {}),
    ],
)
def test_other_products_keep_their_weights(operator, shape, attributes):
    nodes = [helper.make_node(operator, ["x", "w"], ["y"], **attributes)]
    graph = model(nodes, w=GENERATOR.normal(size=shape).astype(np.float32))
    assert not store_in_blocks(graph)
    assert nodes_of(graph) == [operator]
    assert "com.microsoft" not in graph.opset_imports


def test_a_transformer_in_4_bits_is_smaller_than_in_8(tmp_path, export):
    from timmx.testing import awakened_model

    transformer = awakened_model("test_vit2", num_classes=10, depth=4)
    sizes = {}
    for mode in ("weight-int8", "weight-int4"):
        result = export("onnx", transformer, tmp_path / f"{mode}.onnx", mode=mode, dynamic_batch=True)
        sizes[mode] = result.size_bytes
    assert sizes["weight-int4"] < 0.8 * sizes["weight-int8"]
    assert result.precision == result.metadata["precision"] == "int4-weights"
    assert result.verification.status == "verified"
    assert result.verification.floor_db == 3
    assert result.verification.outputs[0].snr_db > 15
    proto = onnx.load(result.path)
    operators = [node.op_type for node in proto.graph.node]
    facts = result.metadata["format"]
    assert facts["int4_operations"] == operators.count("MatMulNBits") >= 4
    assert facts["stored_operations"] > facts["int4_operations"]  # the convolutions have 8 bits
    assert facts["block_size"] == 32
    assert any(tensor.data_type == TensorProto.INT8 for tensor in proto.graph.initializer)
    again = export("onnx", transformer, tmp_path / "again.onnx", mode=mode, dynamic_batch=True)
    assert again.path.read_bytes() == result.path.read_bytes()
    float_file = export("onnx", transformer, tmp_path / "float.onnx", verify=False)
    assert (
        inspect(result.path)["parameters"] > inspect(float_file.path)["parameters"]
    )  # scales are counted too


def test_a_model_without_linear_layers_is_refused_with_a_hint(tmp_path, export):
    from timmx.testing import awakened_model

    with pytest.raises(timmx.UnsupportedError, match="no linear layer") as caught:
        export("onnx", awakened_model("test_resnet", num_classes=0), tmp_path / "a.onnx", mode="weight-int4")
    assert "--mode weight-int8" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_linear_layers_that_lose_too_much_have_8_bits(tmp_path, export):
    from timmx.testing import awakened_model

    result = export("onnx", awakened_model("test_resnet"), tmp_path / "a.onnx", mode="weight-int4")
    assert result.verification.outputs[0].snr_db > 15
    assert "1 linear layer keeps 8 bits: 4 bits cost too much accuracy there." in result.notes
    assert result.precision == result.metadata["precision"] == "int8-weights"  # it was the only one
    assert result.metadata["format"]["int4_operations"] == 0


def test_a_convolutional_network_has_a_note_that_few_weights_are_in_4_bits(tmp_path, export, digits):
    result = export("onnx", digits, tmp_path / "a.onnx", mode="weight-int4")
    assert result.precision == "int4-weights"
    assert any("of the weights are in 4 bits, which only linear layers" in note for note in result.notes)


def test_the_quantizer_leaves_the_log_as_it_is():
    handlers, level = list(logging.root.handlers), logging.root.level
    store_in_blocks(model([helper.make_node("MatMul", ["x", "w"], ["y"])], w=fifteen_levels(64, 48)))
    assert (logging.root.handlers, logging.root.level) == (handlers, level)
