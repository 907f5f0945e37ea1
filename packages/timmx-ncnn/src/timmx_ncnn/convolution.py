"""Convolutions, also of several maps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.movement import cut, order_type
from timmx_ncnn.translate import HINT, Translation, arguments, numbers, shape_of, translates
from timmx_ncnn.weighted import add_fused, inner_product, pair, require_single, weights_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx_ncnn.layers import Parameter, Value

aten = torch.ops.aten


@translates(aten.conv2d.default, aten.conv2d.padding)
def _conv2d(t: Translation, node: torch.fx.Node) -> Value:
    source, weight, bias, stride, padding, dilation, groups = arguments(node)
    stride, dilation = pair(stride), pair(dilation)
    height, width = shape_of(weight)[2:]
    top, left, bottom, right = _sides(padding, (height, width), dilation)
    data = t.weight(weight, "weight of a convolution")
    channels = shape_of(weight)[0]
    number, *shape = shape_of(source)
    if number > 1:
        value = _stacked(t, node, source, top, bottom, stride[0])
        top, bottom = 0, max(0, dilation[0] * (height - 1) + 1 - stride[0])
    else:
        value = t.take(source, tuple(shape))
    if number == groups == 1 and shape[1:] == [1, 1] == [height, width] == stride:
        return inner_product(t, node, source, data, bias, channels)
    parameters: dict[int, Parameter] = {0: channels, 1: width, 11: height, 2: dilation[1], 12: dilation[0]}
    parameters |= {3: stride[1], 13: stride[0], 4: left, 14: top, 15: right, 16: bottom}
    parameters |= {5: int(bias is not None), 6: data.size}
    kind = "Convolution"
    if groups > 1:
        kind, parameters = "ConvolutionDepthWise", parameters | {7: groups}
    weights = weights_of(t, data, bias)
    if number == 1:
        return add_fused(t, node, kind, value, shape_of(node)[1:], parameters, weights)
    tall = (channels, value.shape[1] // stride[0], shape_of(node)[3])
    return _unstacked(t, node, t.network.add(kind, f"{node.name}_tall", [value], tall, parameters, weights))


def _stacked(
    t: Translation, node: torch.fx.Node, source: torch.fx.Node, top: int, bottom: int, stride: int
) -> Value:
    """Several maps as one tall map, each with its padding: ncnn's convolution takes one map."""
    number, channels, height, width = shape_of(source)
    value = t.take(source, (number, channels, height * width))
    value = t.network.add(
        "Permute",
        f"{node.name}_maps",
        [value],
        (channels, number, height * width),
        {0: order_type((1, 0, 2))},
    )
    bottom += -(height + top + bottom) % stride  # so that each map starts at a step of the window
    if top or bottom:
        value = t.network.reshape(value, (channels * number, height, width))
        height += top + bottom
        shape = (channels * number, height, width)
        value = t.network.add("Padding", f"{node.name}_pad", [value], shape, {0: top, 1: bottom})
    return t.network.reshape(value, (channels, number * height, width))


def _unstacked(t: Translation, node: torch.fx.Node, value: Value) -> Value:
    """The maps of a tall map, without the rows in which a window covers two of them."""
    number, channels, height, width = shape_of(node)
    rows = value.shape[1] // number
    value = t.network.reshape(value, (channels * number, rows, width))
    if rows > height:
        value = cut(t, f"{node.name}_rows", value, 1, 0, height)
    value = t.network.reshape(value, (channels, number, height * width))
    shape = (number, channels, height * width)
    return t.network.add("Permute", node.name, [value], shape, {0: order_type((1, 0, 2))})


@translates(aten.conv1d.default)
def _conv1d(t: Translation, node: torch.fx.Node) -> Value:
    source, weight, bias, stride, padding, dilation, groups = arguments(node)
    require_single(source)
    data = t.weight(weight, "weight of a convolution")
    parameters: dict[int, Parameter] = {0: shape_of(weight)[0], 1: shape_of(weight)[2], 2: dilation[0]}
    parameters |= {3: stride[0], 4: padding[0], 5: int(bias is not None), 6: data.size}
    kind = "Convolution1D"
    if groups > 1:
        kind, parameters = "ConvolutionDepthWise1D", parameters | {7: groups}
    value = t.take(source, shape_of(source)[1:])
    return add_fused(t, node, kind, value, shape_of(node)[1:], parameters, weights_of(t, data, bias))


@translates(aten.conv_transpose2d.input)
def _conv_transpose2d(t: Translation, node: torch.fx.Node) -> Value:
    source, weight, bias, stride, padding, output_padding, groups, dilation = arguments(node)
    require_single(source)
    stride, padding, extra, dilation = map(pair, (stride, padding, output_padding, dilation))
    inner, outer, height, width = shape_of(weight)
    constant = t.constant(weight)
    if constant is None:
        raise UnsupportedError("ncnn has no weight of a convolution that depends on the input", hint=HINT)
    data = numbers(constant.reshape(groups, inner // groups, outer, height, width).transpose(1, 2))
    parameters: dict[int, Parameter] = {
        0: outer * groups,
        1: width,
        11: height,
        2: dilation[1],
        12: dilation[0],
    }
    parameters |= {3: stride[1], 13: stride[0], 4: padding[1], 14: padding[0], 15: padding[1], 16: padding[0]}
    parameters |= {5: int(bias is not None), 6: data.size, 18: extra[1], 19: extra[0]}
    kind = "Deconvolution"
    if groups > 1:
        kind, parameters = "DeconvolutionDepthWise", parameters | {7: groups}
    value = t.take(source, shape_of(source)[1:])
    return add_fused(t, node, kind, value, shape_of(node)[1:], parameters, weights_of(t, data, bias))


def _sides(padding: Any, window: Sequence[int], dilation: Sequence[int]) -> tuple[int, int, int, int]:
    """Pixels added at the top, left, bottom and right."""
    if isinstance(padding, str):
        total = [
            step * (size - 1) if padding == "same" else 0 for size, step in zip(window, dilation, strict=True)
        ]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    high, wide = pair(padding)
    return high, wide, high, wide
