"""Convolutions, matrix products, pools and pads against torch's, with the padding computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from coremltools.converters.mil import Builder as mb  # noqa: N813
from neural_networks import by_hand, evaluate, evaluate_all, from_mil, random, tensor
from timmx.errors import UnsupportedError

IMAGE = 2, 4, 9, 10


def close(result, expected, **tolerances):
    expected = np.asarray(expected)
    assert result.shape == expected.shape
    return np.allclose(result, expected, rtol=1e-4, atol=tolerances.get("atol", 1e-5))


@pytest.mark.parametrize(
    ("groups", "strides", "dilations"),
    [(1, [1, 1], [1, 1]), (1, [2, 3], [2, 1]), (2, [1, 2], [1, 3]), (4, [2, 1], [1, 1])],
)
def test_convolution_with_uneven_pads(groups, strides, dilations):
    weight, bias, x = random(8, 4 // groups, 3, 2), random(8, seed=1), random(*IMAGE)
    spec = from_mil(
        lambda x: mb.conv(
            x=x, weight=weight, bias=bias, strides=strides, dilations=dilations, groups=groups,
            pad_type="custom", pad=[1, 2, 0, 3],
        ),
        IMAGE,
    )  # fmt: skip
    padded = F.pad(tensor(x), (0, 3, 1, 2))
    expected = F.conv2d(padded, tensor(weight), tensor(bias), strides, 0, dilations, groups)
    assert close(evaluate(spec, x), expected)


# 9 rows at stride 2 and kernel 4: 5 windows, 8 + 4 - 9 = 3 pads. 10 columns at stride 3 and kernel 3: 4 windows, 2.
@pytest.mark.parametrize(("pad_type", "pads"), [("same", (1, 1, 1, 2)), ("same_lower", (1, 1, 2, 1))])
def test_same_convolution(pad_type, pads):
    weight, x = random(8, 4, 4, 3), random(*IMAGE)

    def program(x):
        return mb.conv(x=x, weight=weight, strides=[2, 3], pad_type=pad_type)

    spec = by_hand(
        lambda builder: builder.add_convolution(
            "conv", 4, 8, 4, 3, 2, 3, "same", 1, weight.transpose(2, 3, 1, 0), None, False,
            input_name="x0", output_name="y",
            same_padding_asymmetry_mode="TOP_LEFT_HEAVY" if pad_type == "same_lower" else "BOTTOM_RIGHT_HEAVY",
        ),
        IMAGE,
    )  # fmt: skip
    expected = F.conv2d(F.pad(tensor(x), pads), tensor(weight), None, (2, 3))
    assert close(evaluate(spec, x), expected)
    if pad_type == "same":
        assert close(evaluate(from_mil(program, IMAGE), x), expected)


def test_convolution_in_one_dimension():
    weight, x = random(6, 4, 3), random(2, 4, 11)
    spec = from_mil(lambda x: mb.conv(x=x, weight=weight, pad_type="custom", pad=[2, 1]), (2, 4, 11))
    assert close(evaluate(spec, x), F.conv1d(F.pad(tensor(x), (2, 1)), tensor(weight)))


def test_convolution_whose_weights_are_an_input():
    x, weight = random(*IMAGE), random(8, 4, 3, 3, seed=1)
    spec = from_mil(lambda x, w: mb.conv(x=x, weight=w, pad_type="valid"), IMAGE, weight.shape)
    assert close(evaluate(spec, x, weight), F.conv2d(tensor(x), tensor(weight)))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "output_padding"), [(3, 1, 1, 0), (4, 2, 1, 0), (2, 2, 0, 0), (3, 2, 0, 0)]
)
def test_deconvolution(groups, kernel, stride, pad, output_padding):
    weight, bias, x = random(4, 6 // groups, kernel, kernel), random(6, seed=1), random(*IMAGE)
    spec = from_mil(
        lambda x: mb.conv_transpose(
            x=x,
            weight=weight,
            bias=bias,
            strides=[stride] * 2,
            groups=groups,
            pad_type="custom",
            pad=[pad] * 4,
        ),
        IMAGE,
    )
    expected = F.conv_transpose2d(
        tensor(x), tensor(weight), tensor(bias), stride, pad, output_padding, groups
    )
    assert close(evaluate(spec, x), expected)


def test_deconvolution_with_an_uneven_crop_is_refused():
    weight = random(4, 6, 3, 3)
    spec = from_mil(
        lambda x: mb.conv_transpose(
            x=x, weight=weight, strides=[2, 2], pad_type="custom", pad=[1] * 4, output_shape=[2, 6, 18, 20]
        ),
        IMAGE,
    )
    with pytest.raises(UnsupportedError, match="leaves 1 to crop"):
        evaluate(spec, random(*IMAGE))


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_linear(shape):
    weight, bias, x = random(7, 5), random(7, seed=1), random(*shape)
    spec = from_mil(lambda x: mb.linear(x=x, weight=weight, bias=bias), shape)
    assert close(evaluate(spec, x), F.linear(tensor(x), tensor(weight), tensor(bias)))


def test_inner_product_takes_an_image_as_one_vector():
    weight, bias, x = random(7, 24), random(7, seed=1), random(2, 2, 3, 4)
    spec = by_hand(lambda b: b.add_inner_product("fc", weight, bias, 24, 7, True, "x0", "y"), x.shape)
    expected = F.linear(tensor(x).flatten(1), tensor(weight), tensor(bias))[..., None, None]
    assert close(evaluate(spec, x), expected)


@pytest.mark.parametrize("transpose_x", [False, True])
@pytest.mark.parametrize("transpose_y", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_matmul(transpose_x, transpose_y, constant):
    x = random(2, 3, 5, 4) if transpose_x else random(2, 3, 4, 5)
    y = random(6, 5, seed=1) if transpose_y else random(5, 6, seed=1)
    options = {"transpose_x": transpose_x, "transpose_y": transpose_y}
    expected = (x.swapaxes(-1, -2) if transpose_x else x) @ (y.T if transpose_y else y)
    if constant:
        result = evaluate(from_mil(lambda x: mb.matmul(x=x, y=y, **options), x.shape), x)
    else:
        result = evaluate(from_mil(lambda x, y: mb.matmul(x=x, y=y, **options), x.shape, y.shape), x, y)
    assert close(result, expected)


def test_matmul_broadcasts_batches():
    x, y = random(2, 1, 4, 5), random(3, 5, 6)
    assert close(evaluate(from_mil(lambda x, y: mb.matmul(x=x, y=y), x.shape, y.shape), x, y), x @ y)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 0, 1), (1, 1, 1, 1)])
def test_pools(pads):
    x = random(*IMAGE)

    def operation(x, kind, exclude):
        options = {} if exclude is None else {"exclude_padding_from_average": exclude}
        return getattr(mb, f"{kind}_pool")(
            x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="custom", pad=list(pads), **options
        )

    kinds = [("max", None), ("l2", None), ("avg", False), ("avg", True)]
    result = evaluate_all({kind: lambda x, kind=kind: operation(x, *kind) for kind in kinds}, x)
    windows = _windows(x, pads, np.nan, (3, 2), (2, 1))
    for kind in kinds:
        assert close(result[kind], _pool(windows, *kind)), kind


def _windows(x, pads, value, kernel, stride):
    top, bottom, left, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))
    return windows[:, :, :: stride[0], :: stride[1]].reshape(
        *windows.shape[:2], *_counts(windows, stride), -1
    )


def _counts(windows, stride):
    return -(-windows.shape[2] // stride[0]), -(-windows.shape[3] // stride[1])


def _pool(windows, kind, exclude):
    if kind == "max":
        return np.nanmax(windows, -1)
    if kind == "l2":
        return np.sqrt(np.nansum(windows**2, -1))
    return np.nanmean(windows, -1) if exclude else np.nansum(windows, -1) / windows.shape[-1]


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_same_pool(kind):
    x = random(*IMAGE)
    options = {"exclude_padding_from_average": True} if kind == "avg" else {}
    operation = getattr(mb, f"{kind}_pool")
    spec = from_mil(
        lambda x: operation(x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="same", **options), IMAGE
    )
    # 9 rows: 5 windows, 2 pads; 10 columns: 5 windows, 1 pad, which goes to the right.
    windows = _windows(x, (1, 1, 0, 1), np.nan, (3, 3), (2, 2))
    assert close(evaluate(spec, x), _pool(windows, kind, True))


@pytest.mark.parametrize("size", [5, 6, 7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 3, 1), (3, 3, 1)])
@pytest.mark.parametrize("include", [False, True])
def test_pool_in_ceil_mode_equals_pytorchs(size, kernel, stride, pad, include):
    x = random(1, 2, size, size + 1)

    def add(builder, kind):
        builder.add_pooling(
            "pool", kernel, kernel, stride, stride, kind, "INCLUDE_LAST_PIXEL", "x0", "y",
            exclude_pad_area=not include, padding_top=pad, padding_bottom=pad, padding_left=pad, padding_right=pad,
        )  # fmt: skip

    expected = F.max_pool2d(tensor(x), kernel, stride, pad, ceil_mode=True)
    assert close(evaluate(by_hand(lambda b: add(b, "MAX"), x.shape), x), expected)
    expected = F.avg_pool2d(tensor(x), kernel, stride, pad, True, include)
    assert close(evaluate(by_hand(lambda b: add(b, "AVERAGE"), x.shape), x), expected)


@pytest.mark.parametrize("operation", ["reduce_mean", "reduce_max"])
def test_global_pool_of_a_reduction(operation):
    x = random(*IMAGE)
    spec = from_mil(lambda x: getattr(mb, operation)(x=x, axes=[2, 3], keep_dims=True), IMAGE)
    assert spec.neuralNetwork.layers[0].pooling.globalPooling
    function = np.mean if operation == "reduce_mean" else np.max
    assert close(evaluate(spec, x), function(x, (2, 3), keepdims=True))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (3, 5, 6)])
def test_pad(mode, shape):
    x = random(*shape)
    spec = from_mil(lambda x: mb.pad(x=x, pad=[2, 1, 0, 3], mode=mode, constant_val=1.5), shape)
    amounts = [(0, 0)] * (len(shape) - 2) + [(2, 1), (0, 3)]
    options = {"constant_values": 1.5} if mode == "constant" else {}
    assert close(evaluate(spec, x), np.pad(x, amounts, mode.replace("replicate", "edge"), **options))


def test_pad_of_any_axis():
    x = random(2, 3, 4)
    spec = from_mil(
        lambda x: mb.pad(x=x, pad=[1, 0, 0, 2, 3, 1], mode="constant", constant_val=-1.0), x.shape
    )
    assert spec.neuralNetwork.layers[0].WhichOneof("layer") == "constantPad"
    assert close(evaluate(spec, x), np.pad(x, [(1, 0), (0, 2), (3, 1)], constant_values=-1))


def test_crop():
    x = random(*IMAGE)
    spec = from_mil(lambda x: mb.crop(x=x, crop_height=[1, 2], crop_width=[0, 3]), IMAGE)
    assert close(evaluate(spec, x), x[:, :, 1:-2, :-3])


def test_embedding():
    table, indices = random(11, 4), np.array([[3, 0], [10, 7]])
    spec = from_mil(lambda x: mb.gather(x=table, indices=mb.cast(x=x, dtype="int32"), axis=0), (2, 2))
    assert spec.neuralNetwork.layers[-1].WhichOneof("layer") == "embeddingND"
    assert close(evaluate(spec, indices), table[indices])


def test_leading_axes_are_batch_axes():
    x, weight = random(2, 3, 4, 5, 5), random(6, 4, 3, 3)
    spec = by_hand(
        lambda b: b.add_convolution(
            "conv", 4, 6, 3, 3, 1, 1, "valid", 1, weight.transpose(2, 3, 1, 0), None, False,
            input_name="x0", output_name="y",
        ),
        x.shape,
    )  # fmt: skip
    expected = F.conv2d(tensor(x).flatten(0, 1), tensor(weight)).unflatten(0, (2, 3))
    assert close(evaluate(spec, x), torch.as_tensor(expected))
