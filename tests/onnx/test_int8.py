"""`timmx onnx --mode int8`: accurate, planned by the table of operator times, the same file each time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes.common import ShapeInferencePass
from PIL import Image
from timmx.base import worst_db
from timmx_onnx.int8 import _prepare, _quantize
from timmx_onnx.regions import integer_nodes
from timmx_onnx.running import opened
from timmx_onnx.speed import speed_table
from timmx_onnx.weights import layers

SPEEDS = speed_table(vnni=True)
GENERATOR = np.random.default_rng(0)


def plan_of(path) -> dict:
    proto = onnx.load(path)
    text = next(entry.value for entry in proto.metadata_props if entry.key == "timmx")
    return json.loads(text)["format"]["quantization_plan"]


def int8(export, digits, output, **options):
    samples = Path(digits.removeprefix("local-dir:")) / "samples"
    return export("onnx", digits, output, mode="int8", calibration_data=samples, **options)


def test_a_trained_model_keeps_its_classes_and_the_metadata_has_the_plan(export, digits, tmp_path):
    result = int8(export, digits, tmp_path / "digits.onnx", reduce_range=True)
    assert result.verification.status == "verified"
    assert result.verification.snr_db > 20
    assert result.verification.top1_agreement > 0.99
    plan = plan_of(result.path)
    assert plan["layers"]["integer"] > 0
    assert plan["integer_share"] > 0.5
    assert abs(plan["measured_db"] - plan["predicted_db"]) < 8
    assert plan["assumes"] == "any CPU"
    operations = Counter(node.op_type for node in onnx.load(result.path).graph.node)
    assert operations["DequantizeLinear"] > 2 * plan["layers"]["integer"]
    assert operations["Cast"] == plan["layers"]["stored"]
    float_file = export("onnx", digits, tmp_path / "float.onnx")
    assert result.size_bytes < 0.45 * float_file.size_bytes


def test_a_file_with_another_class_for_too_many_images_gets_more_layers_in_float(export, digits, tmp_path):
    noise = np.random.default_rng(0)
    (tmp_path / "noise").mkdir()
    for number in range(96):
        pixels = noise.integers(100, 156, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{number}.png")
    every = Path(__file__).parents[2] / "examples" / "digits" / "samples"
    options = {"mode": "int8", "calibration_data": tmp_path / "noise", "verify_data": every}
    usual = export("onnx", digits, tmp_path / "usual.onnx", **options)
    equal = export("onnx", digits, tmp_path / "equal.onnx", min_agreement=100, **options)
    assert usual.verification.top1_agreement < equal.verification.top1_agreement == 1
    assert equal.verification.snr_db > usual.verification.snr_db


def test_equal_inputs_give_equal_bytes_and_a_largest_drop_is_met(export, digits, tmp_path):
    results = [
        int8(export, digits, tmp_path / f"{name}.onnx", max_drop=0.5, reduce_range=True) for name in "ab"
    ]
    assert results[0].path.read_bytes() == results[1].path.read_bytes()
    plan = plan_of(results[0].path)
    assert plan["max_drop"] == 0.5
    assert plan["measured_drop"] <= 0.5
    assert plan["drop_of"] in ("accuracy", "agreement")


def test_a_dynamic_batch_and_other_opsets(export, digits, tmp_path):
    result = int8(
        export, digits, tmp_path / "d.onnx", dynamic_batch=True, opset=18, calibration_method="percentile"
    )
    assert result.verification.batch_sizes == (1, 2, 3)


def test_inspect_shows_the_plan(exported_digits, digits, run_timmx):
    samples = Path(digits.removeprefix("local-dir:")) / "samples"
    path = exported_digits("onnx", mode="int8", calibration_data=samples, max_drop=1.0, reduce_range=True)
    shown = run_timmx("inspect", str(path)).stdout
    plan = plan_of(path)
    assert f"{plan['layers']['integer']} of {sum(plan['layers'].values())} layers" in shown
    assert f"predicted {plan['predicted_db']:.1f} dB, measured {plan['measured_db']:.1f} dB" in shown
    assert "points, at most 1" in shown
    assert "CPUs: any CPU" in shown


def network(*nodes: onnx.NodeProto, size: int = 28, channels: int = 32, **weights: np.ndarray) -> ir.Model:
    entry = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, channels, size, size])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [
        numpy_helper.from_array(array.astype(np.float32) if array.dtype.kind == "f" else array, name)
        for name, array in weights.items()
    ]
    graph = helper.make_graph(list(nodes), "g", [entry], [result], tensors)
    proto = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    model = ir.serde.deserialize_model(proto)
    _prepare(model)
    ShapeInferencePass()(model)
    return model


def conv(source: str, result: str, weight: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [result], name=result, **attributes)


def chosen(model: ir.Model) -> set[str]:
    nodes = [layer.node for layer in layers(model.graph)]
    return {str(node.outputs[0].name) for node in integer_nodes(model, nodes, SPEEDS)}


def weight(outputs: int, inputs: int, size: int = 1) -> np.ndarray:
    return GENERATOR.normal(size=(outputs, inputs, size, size)) / inputs**0.5


def test_large_convolutions_are_in_integers_and_a_tiny_one_is_not_worth_the_conversions():
    large = network(
        conv("input", "a", "w"), conv("a", "y", "v"), channels=256, w=weight(256, 256), v=weight(256, 256)
    )
    assert chosen(large) == {"a", "y"}
    tiny = network(conv("input", "y", "w"), size=7, channels=8, w=weight(8, 8))
    assert chosen(tiny) == set()


@pytest.mark.parametrize(("channels", "integer"), [(240, True), (232, False)])
def test_a_depthwise_convolution_of_few_remaining_channels_is_slow_in_integers(channels, integer):
    depthwise = conv("a", "b", "d", group=channels, kernel_shape=[5, 5], pads=[2] * 4)
    weights = {name: weight(channels, channels) for name in "wv"}
    model = network(
        conv("input", "a", "w"),
        depthwise,
        conv("b", "y", "v"),
        channels=channels,
        d=weight(channels, 1, 5),
        **weights,
    )
    assert {"a", "y"} < chosen(model) | {"b"}
    assert ("b" in chosen(model)) is integer


def test_a_graph_in_which_nothing_is_worth_integers_is_accepted():
    model = network(helper.make_node("Sin", ["input"], ["y"]), channels=4)
    assert integer_nodes(model, [], SPEEDS) == frozenset()


def test_operators_between_integers_are_in_integers_too():
    model = network(
        conv("input", "a", "w"),
        helper.make_node("HardSwish", ["a"], ["b"]),
        conv("b", "y", "v"),
        channels=256,
        w=weight(256, 256),
        v=weight(256, 256),
    )
    assert chosen(model) == {"a", "b", "y"}


def test_a_layer_that_may_not_be_in_integers_is_float():
    model = network(
        conv("input", "a", "w"), conv("a", "y", "v"), channels=256, w=weight(256, 256), v=weight(256, 256)
    )
    first = next(layers(model.graph)).node
    nodes = {str(node.outputs[0].name) for node in integer_nodes(model, [first], SPEEDS)}
    assert nodes == {"a"}


ACTIVATIONS = {
    "hard swish": [helper.make_node("HardSwish", ["a"], ["b"], name="b")],
    "hard sigmoid": [helper.make_node("HardSigmoid", ["a"], ["b"], name="b", alpha=1 / 6, beta=0.5)],
    "hard sigmoid of another slope": [
        helper.make_node("HardSigmoid", ["a"], ["b"], name="b", alpha=0.2, beta=0.4)
    ],
    "relu": [helper.make_node("Relu", ["a"], ["b"], name="b")],
    "mean": [helper.make_node("ReduceMean", ["a", "axes"], ["b"], name="b", keepdims=1)],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_integers_are_the_activations(name):
    """Each is written with operators that have an integer kernel, and stays within the rounding of 8 bits."""
    nodes = [conv("input", "a", "w"), *ACTIVATIONS[name], conv("b", "y", "v")]
    weights = {"w": 2 * weight(32, 32), "v": weight(32, 32), "axes": np.array([2, 3])}
    model = network(*nodes, **weights)
    inputs = GENERATOR.normal(size=(8, 32, 28, 28)).astype(np.float32)
    run = opened(model)
    exact = np.concatenate([run(array[None])[0] for array in inputs])
    values = {"input": inputs}
    for value in ("a", "b"):
        part = ir.from_proto(ir.to_proto(model))
        found = next(output for node in part.graph for output in node.outputs if output.name == value)
        part.graph.outputs[:] = [found]
        run = opened(part)
        values[value] = np.concatenate([run(array[None])[0] for array in inputs])
    ranges = {key: (min(float(array.min()), 0), float(array.max())) for key, array in values.items()}
    ranges["y"] = (float(exact.min()), float(exact.max()))
    quantized = _quantize(model, {str(node.name) for node in model.graph}, ranges, reduce_range=True)
    kinds = {node.op_type for node in quantized.graph}
    assert not kinds & {"HardSwish", "HardSigmoid", "Relu", "ReduceMean", "Clip"}
    run = opened(quantized, integer_kernels=False)
    found = np.concatenate([run(array[None])[0] for array in inputs])
    assert worst_db([exact], [found]) > 28
