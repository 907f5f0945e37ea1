"""Explicit int8: what is quantized in graphs of timm models, how, and what numbers the quantized graphs give."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import photographs
import pytest
import timmx
import torch
from litert_quality import read, settled_model
from timmx.errors import ConfigurationError
from timmx.snr import worst_db
from timmx_onnx.precision import lower_precision
from timmx_tensorrt.lint import lint
from timmx_tensorrt.quantize import insert, observed_values, quantized_weight, targets

LAYERS = ("Conv", "Gemm", "MatMul")
OPSET = 20
"""ONNX Runtime 1.32 does not load vit_tiny_patch16_224 with Q/DQ of opset 21 (microsoft/onnxruntime#25526)."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of parts of photographs to calibrate on, and of parts of others to judge by."""
    return photographs.write(tmp_path_factory.mktemp("photographs"), calibration=16, held_out=16)


@pytest.fixture(scope="module")
def quantized(pictures, tmp_path_factory):
    """Export a model, calibrate and quantize its graph: name -> the graph, the report, the ranges and the decibels."""
    folder = tmp_path_factory.mktemp("quantized")
    made = {}

    def make(name):
        if name not in made:
            path = folder / f"{name}.onnx"
            module = settled_model(name, pictures[0])
            timmx.export("onnx", module, output=path, opset=OPSET, verify=False)
            seen, held_out = (read(module, sorted(part.iterdir())) for part in pictures)
            with torch.inference_mode():
                expected = module(torch.from_numpy(held_out)).numpy()
            model = ir.load(path)
            ranges = observe(path, observed_values(model), seen)
            report = insert(model, ranges)
            ir.save(model, path)
            onnx.checker.check_model(str(path), full_check=True)
            kept_db = worst_db([expected], [run(path, held_out)])
            made[name] = SimpleNamespace(
                graph=model.graph, path=path, report=report, ranges=ranges, kept_db=kept_db
            )
        return made[name]

    return make


def observe(path, names, inputs):
    """Least and greatest of each value, in ONNX Runtime."""
    proto = onnx.load(path)
    inner = [name for name in names if name != "input"]
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in known)
    session = open_session(proto.SerializeToString())
    ranges = {"input": (float(inputs.min()), float(inputs.max()))} if "input" in names else {}
    for array in inputs:
        for name, found in zip(inner, session.run(inner, {"input": array[None]}), strict=True):
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = min(low, float(found.min())), max(high, float(found.max()))
    return ranges


def open_session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(path, inputs):
    session = open_session(str(path))
    return np.concatenate([session.run(None, {"input": array[None]})[0] for array in inputs])


def dequantized(value):
    """The DequantizeLinear that makes a value, or None."""
    node = value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def layers(graph, *op_types):
    return [node for node in graph if node.op_type in (op_types or LAYERS)]


def in_integers(node):
    return all(dequantized(value) is not None for value in node.inputs[:2])


def from_text(text):
    model = ir.from_proto(onnx.parser.parse_model(text))
    model.ir_version = 10
    return model


def with_constants(model, **arrays):
    """Give a graph constants, which then are no inputs of it."""
    for name, array in arrays.items():
        (value,) = (value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(array, name=name)
        model.graph.register_initializer(value)
    return model


@pytest.mark.parametrize(
    ("name", "least_db"),
    [("test_resnet", 26), ("test_efficientnet", 18), ("test_vit", 27), ("test_convnext", 32)],
)
def test_integers_keep_the_numbers_and_pass_what_tensorrt_asks(quantized, name, least_db):
    made = quantized(name)
    assert made.kept_db > least_db
    assert lint(onnx.load(made.path)).errors == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least_db"),
    [
        ("resnet18", 20),
        ("mobilenetv3_small_100", 15),
        ("efficientnet_b0", 10),
        ("convnext_atto", 32),
        ("vit_tiny_patch16_224", 24),
        ("swin_tiny_patch4_window7_224", 28),
        ("eva02_tiny_patch14_224", 41),
    ],
)
def test_families_keep_their_numbers(quantized, name, least_db):
    assert quantized(name).kept_db > least_db


def test_every_sum_of_a_resnet_has_one_pair_on_the_shortcut(quantized):
    made = quantized("test_resnet")
    sums = layers(made.graph, "Add")
    assert made.report.residual_adds == len(sums) == 4
    for add in sums:
        shortcut, main = sorted(add.inputs, key=lambda value: dequantized(value) is None)
        assert dequantized(shortcut) is not None
        assert main.producer().op_type == "Conv"
        assert in_integers(main.producer())


def test_the_shortcut_that_ends_in_a_convolution_is_quantized_behind_it(quantized):
    graph = quantized("test_resnet").graph
    behind_conv = [
        pair
        for add in layers(graph, "Add")
        for value in add.inputs
        if (pair := dequantized(value)) and pair.inputs[0].producer().inputs[0].producer().op_type == "Conv"
    ]
    assert len(behind_conv) == 3
    for pair in behind_conv:
        shortcut = pair.inputs[0].producer().inputs[0].producer()
        assert shortcut.inputs[1].shape[2:] == (1, 1)  # the projection, not the last 3x3 of the main branch


def test_a_value_has_one_pair_however_many_take_it(quantized):
    graph = quantized("test_resnet").graph
    taken = [node.inputs[0].name for node in layers(graph, "QuantizeLinear")]
    assert len(taken) == len(set(taken)) == quantized("test_resnet").report.activations
    users = [len(node.outputs[0].uses()) for node in layers(graph, "DequantizeLinear")]
    assert max(users) >= 2  # a block's input: its first convolution, and the shortcut


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_scales_are_symmetric_with_zero_points_of_zero(quantized, name):
    made = quantized(name)
    for node in layers(made.graph, "QuantizeLinear"):
        low, high = made.ranges[node.inputs[0].name]
        assert node.inputs[1].const_value.numpy() == np.float32(max(-low, high) / 127)
    for node in layers(made.graph, "QuantizeLinear", "DequantizeLinear"):
        zeros = node.inputs[2].const_value.numpy()
        assert zeros.dtype == np.int8
        assert not zeros.any()


def test_weights_are_int8_by_output_channel_and_biases_float(quantized):
    for name, op_type, axis in (("test_resnet", "Conv", 0), ("test_vit", "MatMul", 1)):
        for node in filter(in_integers, layers(quantized(name).graph, op_type)):
            weight = dequantized(node.inputs[1])
            assert weight.inputs[0].const_value.dtype == ir.DataType.INT8
            assert weight.attributes["axis"].as_int() == axis
            assert weight.inputs[1].shape == (weight.inputs[0].shape[axis],)
            assert all(bias.const_value.dtype == ir.DataType.FLOAT for bias in node.inputs[2:])


def test_no_float_copy_of_a_quantized_weight_is_left(quantized):
    made = quantized("test_vit")
    floats = {
        name: tensor
        for name, tensor in made.graph.initializers.items()
        if tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) in (2, 4)
    }
    assert [user.op_type for tensor in floats.values() for user, _ in tensor.uses()] == ["Gemm"]


def test_a_transformer_has_integers_in_linear_layers_and_nowhere_else(quantized):
    made = quantized("test_vit")
    assert made.report.residual_adds == 0
    assert made.report.quantized == {"Conv": 1, "MatMul": 24}
    takers = {
        user.op_type for node in layers(made.graph, "DequantizeLinear") for user, _ in node.outputs[0].uses()
    }
    assert takers == {"Conv", "MatMul"}
    assert made.report.left_float == {"no constant weight": 12, "one position an image": 1}


def test_gates_depthwise_stems_and_the_classifier_stay_float(quantized):
    made = quantized("test_efficientnet")
    for node in layers(made.graph, "Conv", "Gemm"):
        sizes = node.inputs[0].shape[2:]
        taps = int(np.prod(weight_shape(node)[1:]))
        outside = all(size == 1 for size in sizes) or taps <= 32 or weight_shape(node)[0] < 32
        assert in_integers(node) is not outside
    assert made.report.quantized["Conv"] == 7


def weight_shape(node):
    source = dequantized(node.inputs[1])
    return node.inputs[1].shape if source is None else source.inputs[0].shape


def test_a_dynamic_batch_stays_symbolic_and_changes_no_choice(quantized, pictures, tmp_path):
    path = tmp_path / "dynamic.onnx"
    module = settled_model("test_resnet", pictures[0])
    timmx.export("onnx", module, output=path, opset=OPSET, dynamic_batch=True, verify=False)
    model = ir.load(path)
    ranges = observe(path, observed_values(model), read(module, sorted(pictures[0].iterdir())[:2]))
    static = quantized("test_resnet").report
    assert insert(model, ranges) == static
    assert lint(ir.to_proto(model), dynamic_batch=True).errors == ()


def test_convnext_quantizes_its_layers_and_not_its_stream(quantized):
    report = quantized("test_convnext").report
    assert report.residual_adds == 0
    assert report.quantized == {"Conv": 11, "MatMul": 18}


def test_scales_become_half_with_the_rest(quantized):
    made = quantized("test_resnet")
    model = ir.load(made.path)
    lower_precision(model, ir.DataType.FLOAT16)
    pairs = layers(model.graph, "DequantizeLinear")
    assert pairs
    assert {node.inputs[1].dtype for node in pairs} == {ir.DataType.FLOAT16}
    assert {node.outputs[0].dtype for node in pairs} == {ir.DataType.FLOAT16}
    assert lint(ir.to_proto(model)).errors == ()


def test_values_without_a_range_stay_float(quantized):
    path = quantized("test_resnet").path.with_name("dead.onnx")
    model = linear("Hidden = MatMul(X, W)\n Y = MatMul(Hidden, V)")
    with_constants(model, W=weights(64, 64), V=weights(64, 64, seed=1))
    report = insert(model, {"X": (-1.0, 2.0), "Hidden": (0.0, 0.0)})
    assert report.quantized == {"MatMul": 1}
    assert report.left_float == {"no range seen": 1}
    ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    scales = [node.inputs[1].const_value.numpy() for node in layers(model.graph, "QuantizeLinear")]
    assert scales == [np.float32(2 / 127)]


def linear(body, opset=20):
    """A graph of linear layers on X (batch, positions, 64), whose weights W and V still are to be given."""
    return from_text(
        f"""<ir_version: 10, opset_import: ["" : {opset}]>
        agraph (float[batch, 9, 64] X, float[64, 64] W, float[64, 64] V) => (float[batch, 9, 64] Y) {{
            {body}
        }}"""
    )


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_weight_behind_a_transpose_reaches_its_layer_directly(tmp_path):
    model = linear("Turned = Transpose <perm = [1, 0]> (W)\n Y = MatMul(X, Turned)")
    model = with_constants(model, W=weights(64, 64), V=weights(64, 64))
    inputs = weights(2, 9, 64, seed=3)
    insert(model, {"X": (float(inputs.min()), float(inputs.max()))})
    assert [node.op_type for node in model.graph] == [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "MatMul",
    ]
    ir.save(model, tmp_path / "model.onnx")
    (found,) = open_session(str(tmp_path / "model.onnx")).run(None, {"X": inputs})
    assert worst_db([inputs @ weights(64, 64).T], [found]) > 30


def test_older_opsets_are_refused_with_the_flag_that_mends_it():
    model = with_constants(linear("Y = MatMul(X, W)", opset=18), W=weights(64, 64), V=weights(64, 64))
    with pytest.raises(ConfigurationError, match="--opset 19"):
        insert(model, {"X": (-1.0, 1.0)})


def test_channels_that_are_switched_off_take_scales_that_half_precision_holds():
    weight = weights(4, 32)
    weight[1] = 0
    weight[2] *= 1e-8
    integers, scales = quantized_weight(weight, 0)
    assert not integers[1:3].any()
    assert scales.min() >= 2.0**-14
    assert scales[1] == scales[2]
    assert np.abs(integers * scales[:, None] - weight).max() <= scales.max() / 2


def test_observed_values_are_those_that_get_a_pair(quantized):
    made = quantized("test_resnet")
    names = {node.inputs[0].name for node in layers(made.graph, "QuantizeLinear")}
    assert set(made.ranges) == names


def test_choosing_leaves_the_graph_as_it_is():
    model = with_constants(linear("Y = MatMul(X, W)"), W=weights(64, 64), V=weights(64, 64))
    before = ir.to_proto(model).SerializeToString()
    assert [layer.node.op_type for layer in targets(model).layers] == ["MatMul"]
    assert ir.to_proto(model).SerializeToString() == before
