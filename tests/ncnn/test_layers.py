"""Operations computed by ncnn's layers have PyTorch's results."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from timmx.capture import capture
from timmx.errors import UnsupportedError
from timmx_ncnn.convert import convert
from timmx_ncnn.network import compute, load, new_net
from timmx_ncnn.write import to_text, write_weights
from torch import nn
from witnesses import Does

IMAGE = torch.randn(1, 4, 10, 13, generator=torch.Generator().manual_seed(0))
"""With no side that is a multiple of 4, to which ncnn aligns the channels."""

TOKENS = IMAGE.reshape(1, 52, 10)


def layers_of(module, example):
    with torch.no_grad():
        return convert(capture(module.eval(), example, dynamic=False), ["output"])


def computed(module, example, folder):
    """ncnn's result, in the shape of PyTorch's, and the kinds of the layers."""
    layers = layers_of(module, example)
    param, weights = folder / "m.param", folder / "m.bin"
    param.write_text(to_text(layers))
    with weights.open("wb") as file:
        write_weights(layers, file, half=False)
    net = new_net(half=False, threads=1)
    load(net, param, weights)
    (result,) = compute(net, {"input": example[0].numpy()}, ["output"])
    return result, [layer.kind for layer in layers]


def check(module, example, folder):
    result, kinds = computed(module, example, folder)
    with torch.no_grad():
        expected = module(example).numpy()
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-4, atol=2e-5)
    return kinds


def seeded(layer):
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layer.eval()


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        F.gelu,
        lambda x: F.gelu(x, approximate="tanh"),
        F.silu,
        F.hardswish,
        F.hardsigmoid,
        F.relu6,
        F.mish,
        F.elu,
        F.selu,
        F.softplus,
        torch.sigmoid,
        torch.tanh,
        torch.erf,
        lambda x: F.leaky_relu(x, 0.2),
        lambda x: x.clamp(-0.5, 0.7),
        lambda x: x.clamp(min=0.1),
        lambda x: x.clamp(torch.tensor(-0.5), torch.tensor(0.7)),
        lambda x: x.abs().sqrt() + x.exp() + x.sin() + x.cos(),
        lambda x: x**2 + x**3 + x**4 + x.abs() ** 1.7,
        lambda x: 1 / (2 + x.abs()) - (3 - x) * 2,
        lambda x: 2.0 - x.reciprocal(),
        lambda x: (x * x + 0.1).rsqrt(),
    ],
)
def test_function_of_single_elements(function, tmp_path):
    check(Does(function), IMAGE, tmp_path)


SHAPES = [
    (1,),
    (13,),
    (10, 1),
    (10, 13),
    (4, 1, 1),
    (4, 1, 13),
    (4, 10, 1),
    (1, 10, 13),
    (1, 4, 10, 13),
    (1, 1, 1, 13),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_sum_and_quotient_broadcast(shape, tmp_path):
    other = torch.rand(shape, generator=torch.Generator().manual_seed(2)) + 0.5
    check(Does(lambda x: (x + other) / other - other * x), IMAGE, tmp_path)


@pytest.mark.parametrize("size", [(4, 1, 1), (1, 10, 1), (1, 1, 13), (4, 10, 1), (1, 10, 13), (4, 1, 13)])
def test_two_values_that_depend_on_the_input_broadcast(size, tmp_path):
    dims = [place + 1 for place, number in enumerate(size) if number == 1]
    check(
        Does(lambda x: x.sigmoid() * (x.mean(dims, keepdim=True) + x.amax(dims, keepdim=True))),
        IMAGE,
        tmp_path,
    )


def test_operands_with_many_axes_broadcast(tmp_path):
    def function(x):
        x = x.reshape(1, 2, 2, 10, 13)
        return x * x.sum((2, 3), keepdim=True) - x.mean((1, 4), keepdim=True)

    check(Does(function), IMAGE, tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean(1),
        lambda x: x.sum(-1, keepdim=True),
        lambda x: x.amax((1, 3)),
        lambda x: x.amin(2),
        lambda x: x.max(1)[0],
        lambda x: x.mean(),
        lambda x: x.var((2, 3), keepdim=True),
        lambda x: F.normalize(x, dim=1),
        lambda x: F.normalize(x, dim=-1),
        lambda x: x.softmax(-1),
        lambda x: x.softmax(1),
        lambda x: x.softmax(2),
        lambda x: x.reshape(1, 2, 2, 10, 13).softmax(1),
        lambda x: x.cumsum(1),
        lambda x: x.cumsum(-1),
    ],
)
def test_operation_along_axes(function, tmp_path):
    check(Does(function), IMAGE, tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.permute(0, 3, 1, 2).flatten(2),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.reshape(1, 2, 2, 5, 2, 13).permute(0, 2, 4, 1, 3, 5).flatten(1, 3),
        lambda x: x.reshape(2, 2, 5, 2, 13).permute(3, 0, 2, 1, 4).flatten(0, 1),
        lambda x: x[:, 1:3],
        lambda x: x[:, :, 2:-1, -5:],
        lambda x: x[:, ::2, 1::3, ::2],
        lambda x: x[:, 1:, 3, :],
        lambda x: torch.stack(x.unbind(1)[::2], 2),
        lambda x: torch.cat(x.split(3, 2)[::-1], 2),
        lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda x: torch.cat((x, x.relu()), 3),
        lambda x: torch.stack((x, x.relu(), x.neg()), -1).flatten(1),
        lambda x: x.roll((2, -1), (2, 3)),
        lambda x: x.roll(1, 1),
        lambda x: x.flip(1, 3),
        lambda x: torch.slice_scatter(x, x[:, :, :3] * 2, 2, 4, 7),
        lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 3),
        lambda x: x.repeat(1, 2, 1, 3),
        lambda x: x[:, :, :1].expand(1, 4, 5, 13),
        lambda x: x[:, torch.tensor([3, 0, 1])],
        lambda x: x[:, :, torch.tensor([9, 1, 8, 2, 7, 3, 6, 4, 5, 0, 0])],
        lambda x: F.pad(x, (1, 2, 3, 4)),
        lambda x: F.pad(x, (1, 2, 0, 0, 1, 5), value=1.5),
        lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 3, 0, 4)),
        lambda x: F.pad(x.reshape(2, 2, 10, 13), (0, 1, 2, 0, 1, 0, 0, 1)),
        lambda x: F.pad(x, (-1, 2, 3, -4)),
        lambda x: F.pad(x, (1, 2, 3, 4), mode="reflect"),
        lambda x: F.pad(x, (1, 2, 3, 4), mode="replicate"),
        lambda x: x.unfold(2, 4, 2).unfold(3, 5, 3).flatten(3),
        lambda x: F.unfold(x, 3, padding=1, stride=2),
        lambda x: F.fold(F.unfold(x, 2, stride=1), (10, 13), 2, stride=1),
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: F.pixel_unshuffle(x[:, :, :, :12], 2),
    ],
)
def test_movement_of_numbers(function, tmp_path):
    check(Does(function), IMAGE, tmp_path)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2), bias=False),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 4, 5, padding=2, groups=4),
        nn.Conv2d(4, 4, (4, 2), padding="same"),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Flatten(0, 2), nn.BatchNorm1d(13)),
        nn.GroupNorm(2, 4),
        nn.GroupNorm(1, 4, affine=False),
        nn.LayerNorm((10, 13)),
        nn.LayerNorm(13, elementwise_affine=False),
        nn.RMSNorm(13),
        nn.PReLU(4),
        nn.Linear(13, 5),
        nn.Linear(13, 5, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 5)),
        nn.AdaptiveMaxPool2d(1),
        nn.MaxPool2d(3, 2, 1),
        nn.Sequential(nn.ConstantPad2d((0, 1, 0, 1), float("-inf")), nn.MaxPool2d(3, 2)),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2, 2, ceil_mode=True),
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(7, 20)),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(size=(7, 20), mode="bilinear", align_corners=True),
        nn.Upsample(size=(7, 20), mode="bicubic"),
    ],
    ids=lambda layer: str(layer)[:60],
)
def test_layer(layer, tmp_path):
    check(seeded(layer), IMAGE, tmp_path)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 4, 5, padding=2, groups=4),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(2, 1), bias=False),
        nn.Conv2d(4, 6, 2, stride=3, padding=1),
    ],
)
def test_convolution_of_several_maps(layer, tmp_path):
    layer = seeded(layer)
    module = Does(lambda x: layer(torch.cat((x, -x, 2 * x))))
    module.layer = layer
    check(module, IMAGE, tmp_path)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ],
)
def test_pooling_of_several_maps(layer, tmp_path):
    check(Does(lambda x: layer(torch.cat((x, -x, 2 * x)))), IMAGE, tmp_path)


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.Sigmoid(), nn.Mish(), nn.Hardswish()]
)
def test_activation_is_computed_by_the_layer_before(activation, tmp_path):
    layer = seeded(nn.Sequential(nn.Conv2d(4, 6, 3), activation))
    assert check(layer, IMAGE, tmp_path) == ["Input", "Convolution"]


def test_value_that_is_used_otherwise_stays_without_activation(tmp_path):
    convolution = seeded(nn.Conv2d(4, 4, 3))

    def function(x):
        x = convolution(x)
        return x + x.relu()

    module = Does(function)
    module.convolution = convolution
    check(module, IMAGE, tmp_path)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ x.transpose(-1, -2),
        lambda x: x.transpose(-1, -2) @ x,
        lambda x: x.reshape(1, 2, 26, 10) @ x.reshape(1, 2, 26, 10).mT,
        lambda x: x.reshape(1, 4, 13, 10) @ x[:, :10].reshape(1, 1, 10, 10),
        lambda x: x.reshape(2, 2, 13, 10) @ x[:, :20].reshape(2, 1, 10, 10),
        lambda x: x @ torch.ones(10, 3),
        lambda x: torch.ones(3, 52) @ x,
        lambda x: torch.einsum("bnc,bmc->bnm", x, x),
    ],
)
def test_matrix_product(function, tmp_path):
    check(Does(function), TOKENS, tmp_path)


def attention(x, mask=None, **options):
    q, k, v = x.reshape(1, 4, 13, 10), (0.5 * x).reshape(1, 4, 13, 10), x.reshape(1, 4, 13, 10).sin()
    return F.scaled_dot_product_attention(q, k, v, mask, **options)


@pytest.mark.parametrize(
    ("mask", "kinds"),
    [
        (None, 1),
        (torch.linspace(-2, 2, 169).reshape(13, 13), 1),
        (torch.linspace(-2, 2, 676).reshape(1, 4, 13, 13), 1),
        (torch.ones(13, 13, dtype=torch.bool).tril(), 1),
        (torch.zeros(13, 13).masked_fill(torch.ones(13, 13).tril() == 0, -math.inf), 1),
    ],
)
def test_attention_is_one_layer(mask, kinds, tmp_path):
    assert check(Does(lambda x: attention(x, mask)), TOKENS, tmp_path).count("SDPA") == kinds


@pytest.mark.parametrize("lead", [(4, 1, 13, 13), (1, 2, 13, 13)])
def test_attention_of_windows_with_a_shared_mask(lead, tmp_path):
    mask = torch.linspace(-2, 2, math.prod(lead)).reshape(lead)

    def function(x):
        x = x.reshape(4, 2, 13, 5)
        return F.scaled_dot_product_attention(x, x, x, mask)

    assert "SDPA" not in check(Does(function), TOKENS, tmp_path)


def test_attention_of_queries_that_share_all_keys(tmp_path):
    def function(x):
        return F.scaled_dot_product_attention(x.reshape(1, 4, 13, 10), *[x[:, :26].reshape(1, 1, 26, 10)] * 2)

    check(Does(function), TOKENS, tmp_path)


def test_attention_of_grouped_queries(tmp_path):
    def function(x):
        q, k = x.reshape(1, 4, 13, 10), x[:, :26].reshape(1, 2, 13, 10)
        return F.scaled_dot_product_attention(q, k, k, scale=0.3, enable_gqa=True)

    check(Does(function), TOKENS, tmp_path)


def test_reshapes_are_layers_only_where_they_are_needed(tmp_path):
    kinds = check(Does(lambda x: x.reshape(1, 2, 2, 130).flatten().unsqueeze(0).relu()), IMAGE, tmp_path)
    assert kinds == ["Input", "ReLU", "Reshape"]


def test_constants_are_computed_before(tmp_path):
    table = torch.randn(5, 4, 1, 1)
    kinds = check(Does(lambda x: x + table[torch.tensor([3])].exp().flip(1)), IMAGE, tmp_path)
    assert kinds == ["Input", "MemoryData", "BinaryOp"]


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: x.sort(-1)[0], r"aten\.sort"),
        (lambda x: F.grid_sample(x, x.permute(0, 2, 3, 1)[..., :2]), r"aten\."),
        (lambda x: F.conv2d(x, x[:, :, :3, :3]), "weight of a convolution that depends on the input"),
    ],
)
def test_operation_that_ncnn_lacks_is_named(function, operation):
    with pytest.raises(UnsupportedError, match=operation) as caught:
        layers_of(Does(function), IMAGE)
    assert "timmx onnx" in caught.value.hint
