"""Missing or invalid contents of a file are errors that name the layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.models.datatypes import Array
from coremltools.models.neural_network import NeuralNetworkBuilder
from neural_networks import by_hand, evaluate, from_mil, random
from timmx.errors import ArtifactError, UnsupportedError
from timmx_coreml.neural_network import NeuralNetworkEvaluator
from timmx_coreml.schema import schema

IMAGE = 1, 4, 6, 6


def convolution(builder):
    weight = random(3, 3, 4, 8)
    builder.add_convolution(
        "conv", 4, 8, 3, 3, 1, 1, "valid", 1, weight, np.zeros(8), True, input_name="x0", output_name="y"
    )


def inner_product(builder):
    builder.add_inner_product("fc", random(5, 6), None, 6, 5, False, "x0", "y")


def layer(spec):
    return spec.neuralNetwork.layers[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda conv: conv.weights.floatValue.pop(),
            r"holds 287 numbers, but 288 numbers .8 x 4 x 3 x 3",
        ),
        (lambda conv: conv.weights.Clear(), "its 'weights' is empty"),
        (lambda conv: conv.bias.floatValue.append(0.0), r"its 'bias' holds 9 numbers, but 8"),
        (lambda conv: setattr(conv, "kernelChannels", 5), "its 'weights' holds 288 numbers, but 360"),
        (lambda conv: setattr(conv, "nGroups", 3), "not divisible into 3 groups"),
        (lambda conv: conv.kernelSize.append(3), "'kernelSize' has 3 entries"),
        (lambda conv: conv.valid.paddingAmounts.borderAmounts.pop(), "border amounts have 1 entries"),
        (lambda conv: conv.ClearField("valid"), "has no padding type"),
    ],
)
def test_damaged_convolution_is_reported_when_opened(damage, message):
    spec = by_hand(convolution, IMAGE)
    damage(layer(spec).convolution)
    with pytest.raises(
        ArtifactError, match=rf"^layer 'conv' \(convolution\) is damaged: .*{message}.*\nhint: export"
    ):
        NeuralNetworkEvaluator(spec)


def test_blob_that_no_layer_writes_is_reported():
    spec = by_hand(convolution, IMAGE)
    layer(spec).input[0] = "elsewhere"
    with pytest.raises(ArtifactError, match=r"'conv'.*no layer before it writes its input 'elsewhere'"):
        NeuralNetworkEvaluator(spec)
    spec = by_hand(convolution, IMAGE)
    layer(spec).output[0] = "elsewhere"
    with pytest.raises(ArtifactError, match="no layer writes the output 'y'"):
        NeuralNetworkEvaluator(spec)


def test_wrong_number_of_blobs_is_reported():
    spec = by_hand(convolution, IMAGE)
    layer(spec).output.append("z")
    with pytest.raises(ArtifactError, match="2 outputs instead of 1"):
        NeuralNetworkEvaluator(spec)
    spec = by_hand(inner_product, (2, 6))
    layer(spec).input.append("x0")
    with pytest.raises(ArtifactError, match="2 inputs instead of 1"):
        NeuralNetworkEvaluator(spec)


def test_shapes_that_do_not_fit_are_reported():
    spec = by_hand(convolution, (1, 5, 6, 6))
    with pytest.raises(ArtifactError, match=r"'conv' .*cannot take its inputs \(x0 \(1, 5, 6, 6\)\)"):
        evaluate(spec, random(1, 5, 6, 6))


def test_unknown_layers_are_reported():
    def custom(builder):
        params = schema("NeuralNetwork_pb2").CustomLayerParams(className="Fancy")
        builder.add_custom("mine", ["x0"], ["y"], params)

    def chance(builder):
        builder.add_random_normal_like("noise", "x0", "y")

    with pytest.raises(UnsupportedError, match=r"'mine' \(custom\).*'Fancy'") as error:
        NeuralNetworkEvaluator(by_hand(custom, IMAGE))
    assert not error.value.hint  # macOS does not have the class either
    with pytest.raises(UnsupportedError, match=r"'noise': .* type 'randomNormalLike'\nhint: .*macOS"):
        NeuralNetworkEvaluator(by_hand(chance, IMAGE))
    spec = by_hand(convolution, IMAGE)
    layer(spec).ClearField("convolution")
    with pytest.raises(UnsupportedError, match="'conv' has a type that timmx does not know"):
        NeuralNetworkEvaluator(spec)


def test_control_flow_is_refused():
    spec = by_hand(convolution, IMAGE)
    layer(spec).loop.maxLoopIterations = 2
    with pytest.raises(UnsupportedError, match="'loop'"):
        NeuralNetworkEvaluator(spec)


def test_unknown_fields_are_reported():
    spec = by_hand(convolution, IMAGE)
    # Field 200, a varint of 1, within the layer's parameters.
    layer(spec).convolution.MergeFromString(bytes([0xC0, 0x0C, 0x01]))
    with pytest.raises(
        UnsupportedError, match="layer 'conv' has the field 200 in its ConvolutionLayerParams"
    ):
        NeuralNetworkEvaluator(spec)


def test_unknown_values_are_reported():
    spec = by_hand(lambda b: b.add_gelu("act", "x0", "y"), IMAGE)
    layer(spec).gelu.mode = 7
    with pytest.raises(UnsupportedError, match="layer 'act' has mode = 7"):
        NeuralNetworkEvaluator(spec)


def test_dynamic_quantization_is_refused():
    spec = by_hand(inner_product, (2, 6))
    layer(spec).innerProduct.int8DynamicQuantize = True
    with pytest.raises(UnsupportedError, match=r"'fc' .*int8DynamicQuantize"):
        NeuralNetworkEvaluator(spec)


def test_five_axis_mapping_is_refused():
    builder = NeuralNetworkBuilder([("x0", Array(4))], [("y", None)])
    builder.add_activation("act", "RELU", "x0", "y")
    with pytest.raises(UnsupportedError, match="'x0': it is an array under RANK5_ARRAY_MAPPING"):
        NeuralNetworkEvaluator(builder.spec)


def test_other_kinds_of_model_are_refused():
    model = schema("Model_pb2").Model()
    model.neuralNetworkRegressor.SetInParent()
    with pytest.raises(UnsupportedError, match="'neuralNetworkRegressor'"):
        NeuralNetworkEvaluator(model)


def test_input_names_and_shapes_are_checked():
    evaluator = NeuralNetworkEvaluator(by_hand(convolution, IMAGE))
    assert evaluator.inputs["x0"].shape == IMAGE
    with pytest.raises(ValueError, match="The inputs must be x0, not x"):
        evaluator.run({"x": torch.zeros(IMAGE)})
    with pytest.raises(ValueError, match=r"'x0' must have the shape \(1, 4, 6, 6\), not \(2, 4, 6, 6\)"):
        evaluator.run({"x0": torch.zeros(2, *IMAGE[1:])})


def test_layer_may_overwrite_its_input():
    def add(builder):
        builder.add_activation("double", "LINEAR", "x0", "a", [2.0, 0.0])
        builder.add_copy("again", "a", "b")
        builder.add_activation("more", "LINEAR", "a", "a", [1.0, 5.0])
        builder.add_elementwise("sum", ["a", "b"], "y", "ADD")

    x = random(*IMAGE)
    assert np.allclose(evaluate(by_hand(add, IMAGE), x), 4 * x + 5)


def test_blobs_are_freed_after_their_last_use():
    def add(builder):
        for i in range(20):
            builder.add_activation(f"l{i}", "LINEAR", f"a{i - 1}" if i else "x0", f"a{i}", [1.0, 1.0])
        builder.add_copy("end", "a19", "y")

    evaluator = NeuralNetworkEvaluator(by_hand(add, IMAGE))
    freed = [names for _, _, names in evaluator._steps]
    assert freed == [("x0",), *((f"a{i}",) for i in range(20))]


def test_unused_blob_is_freed():
    x = random(2, 5)
    spec = from_mil(lambda x: mb.topk(x=x, k=2)[0], x.shape)
    assert np.allclose(evaluate(spec, x), -np.sort(-x, -1)[:, :2])
