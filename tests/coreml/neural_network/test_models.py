"""timm models as `neuralnetwork` files compute what the models compute."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.models.neural_network.quantization_utils import _dequantize_nn_spec, quantize_weights
from neural_networks import convert, evaluate, input_size, random, snr_db, tensor
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.mobilenetv3 import MobileNetV3
from timmx.testing import awaken, awakened_model
from timmx_coreml.neural_network import NeuralNetworkEvaluator

pytestmark = pytest.mark.usefixtures("export")

SLOW = (
    "mobilenetv3_small_050",
    "resnet18",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "efficientnet_b0",
    "regnety_002",
    "tresnet_m",
)


@pytest.fixture(scope="module")
def resnet():
    return awakened_model("test_resnet").eval()


@pytest.fixture(scope="module")
def converted(resnet):
    return convert(resnet)


@pytest.fixture(scope="module")
def small():
    """A model of few layers, enough to test the description."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.BatchNorm2d(8),
        torch.nn.GELU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 10),
    )
    model.pretrained_cfg = {"input_size": (3, 16, 20)}
    return model.eval()


@pytest.fixture(scope="module")
def mobilenet():
    """MobileNetV3's blocks, one of each: depthwise, inverted residual, and the last convolution."""
    blocks = [["ds_r1_k3_s2_e1_c16_se0.25_nre"], ["ir_r1_k5_s2_e4_c24_se0.25"], ["cn_r1_k1_s1_c32"]]
    squeeze = partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=torch.nn.ReLU)
    torch.manual_seed(0)
    model = MobileNetV3(
        decode_arch_def(blocks),
        num_classes=10,
        num_features=64,
        act_layer=torch.nn.Hardswish,
        se_layer=squeeze,
    )
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    return awaken(model, input_size=(3, 64, 64))


def is_exact(model, converted, folder):
    path = folder / "model.mlmodel"
    converted.save(str(path))
    return snr_db(model, ct.utils.load_spec(str(path))) > 90


def test_float32_resnet_is_exact(resnet, converted, tmp_path):
    assert is_exact(resnet, converted, tmp_path)


def test_float32_mobilenet_is_exact(mobilenet, tmp_path):
    assert is_exact(mobilenet, convert(mobilenet), tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_vit", {"img_size": 64, "depth": 2}),
        ("test_efficientnet", {}),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_float32_is_exact(name, options, tmp_path):
    model = awakened_model(name, **options).eval()
    assert is_exact(model, convert(model), tmp_path)


def test_half_weights_are_close(resnet, converted):
    assert 22 < snr_db(resnet, quantize_weights(converted, 16).get_spec()) < 90


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_weights_equal_those_of_coremltools(resnet, converted, bits):
    quantized = quantize_weights(converted, bits).get_spec()
    dequantized = copy.deepcopy(quantized)
    _dequantize_nn_spec(dequantized.neuralNetwork)
    images = random(1, *input_size(resnet))
    expected = evaluate(dequantized, images)
    assert not np.allclose(expected, resnet(tensor(images)).detach(), atol=1e-3)
    assert np.allclose(evaluate(quantized, images), expected, atol=1e-4)


def test_dynamic_batch_size(small):
    spec = convert(
        small,
        dynamic=True,
        inputs=[ct.TensorType("input", shape=(ct.RangeDim(1, 8, 1), *input_size(small)))],
    ).get_spec()
    assert snr_db(small, spec, (1, 2, 3)) > 90
    with pytest.raises(ValueError, match=r"must have the shape 1\.\.8 x"):
        snr_db(small, spec, (9,))


def test_enumerated_batch_sizes(small):
    shapes = [(batch, *input_size(small)) for batch in (1, 2)]
    spec = convert(
        small, dynamic=True, inputs=[ct.TensorType("input", shape=ct.EnumeratedShapes(shapes))]
    ).get_spec()
    assert snr_db(small, spec, (1, 2)) > 90
    with pytest.raises(ValueError, match="must have the shape"):
        snr_db(small, spec, (3,))


@pytest.mark.parametrize("colors", ["RGB", "BGR"])
def test_pixels_are_preprocessed_as_declared(small, colors):
    biases = [-0.5, -1.0, -1.5]
    image = ct.ImageType(
        "input",
        shape=(1, *input_size(small)),
        scale=1 / 64,
        bias=biases,
        color_layout=getattr(ct.colorlayout, colors),
    )
    evaluator = NeuralNetworkEvaluator(convert(small, inputs=[image]).get_spec())
    assert evaluator.inputs["input"].colors == colors
    pixels = tensor(np.random.default_rng(0).integers(0, 256, (1, *input_size(small))))
    (output,) = evaluator.run({"input": pixels}).values()
    expected = small(pixels / 64 + tensor(biases).reshape(-1, 1, 1))
    assert np.allclose(output, expected.detach(), atol=1e-5)


@pytest.mark.parametrize("labels", [[f"class {i}" for i in range(10)], list(range(10))])
def test_classifier_returns_label_and_probabilities(small, labels):
    spec = convert(small, classifier_config=ct.ClassifierConfig(labels)).get_spec()
    evaluator = NeuralNetworkEvaluator(spec)
    images = tensor(random(1, *input_size(small)))
    results = evaluator.run({next(iter(evaluator.inputs)): images})
    logits = small(images).detach()[0]
    assert results[spec.description.predictedFeatureName] == labels[int(logits.argmax())]
    probabilities = results[spec.description.predictedProbabilitiesName]
    assert list(probabilities) == labels
    assert np.allclose(list(probabilities.values()), logits, atol=1e-4)


def test_coremltools_is_not_imported(converted, tmp_path):
    path = tmp_path / "model.mlmodel"
    path.write_bytes(converted.get_spec().SerializeToString())
    code = (
        "import sys, torch\n"
        "from timmx_coreml.schema import schema\n"
        "from timmx_coreml.neural_network import NeuralNetworkEvaluator\n"
        f"model = schema('Model_pb2').Model.FromString(open({str(path)!r}, 'rb').read())\n"
        "evaluator = NeuralNetworkEvaluator(model)\n"
        "((name, feature),) = evaluator.inputs.items()\n"
        "print(evaluator.run({name: torch.zeros(feature.shape)})[evaluator.outputs[0]].shape)\n"
        "assert not any(n.split('.')[0] in ('coremltools', 'timm', 'sklearn') for n in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "1000" in done.stdout
