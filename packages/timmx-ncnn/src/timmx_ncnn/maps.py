"""Pooling, resampling and normalization."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.arithmetic import ADD, MUL
from timmx_ncnn.layers import Parameter, Value, Weight, sizes
from timmx_ncnn.translate import HINT, Translation, arguments, shape_of, translates
from timmx_ncnn.weighted import pair, require_single

aten = torch.ops.aten

_MAXIMUM, _AVERAGE = 0, 1
"""Types of `Pooling`."""


@translates(aten.adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default)
def _adaptive_pool(t: Translation, node: torch.fx.Node) -> Any:
    source, size = arguments(node)
    average = node.target is aten.adaptive_avg_pool2d.default
    kind = _AVERAGE if average else _MAXIMUM
    shape = _maps(shape_of(source))
    value = t.take(source, shape)
    rows, columns = pair(size)
    if rows == columns == 1:
        result = t.network.add("Pooling", node.name, [value], shape[:1], {0: kind, 4: 1})
    else:
        out = (shape[0], rows or shape[1], columns or shape[2])
        result = t.network.add("Pooling", node.name, [value], out, {0: kind, 7: 1, 8: out[2], 18: out[1]})
    return result if average else [result]


@translates(aten.max_pool2d.default, aten.max_pool2d_with_indices.default)
def _max_pool2d(t: Translation, node: torch.fx.Node) -> Any:
    source, kernel, stride, padding, dilation, ceil_mode = arguments(node)
    if pair(dilation) != [1, 1]:
        raise UnsupportedError("ncnn has no pooling with dilation", hint=HINT)
    result = _pool(t, node, source, kernel, stride or kernel, padding, ceil_mode, {0: _MAXIMUM})
    return result if node.target is aten.max_pool2d.default else [result]


@translates(aten.avg_pool2d.default)
def _avg_pool2d(t: Translation, node: torch.fx.Node) -> Value:
    source, kernel, stride, padding, ceil_mode, include, divisor = arguments(node)
    kernel, stride, padding = pair(kernel), pair(stride or kernel), pair(padding)
    overhang = ceil_mode and any(
        (size + 2 * pad - window) % step
        for size, pad, window, step in zip(shape_of(source)[2:], padding, kernel, stride, strict=True)
    )
    if include and any(padding) and overhang:
        raise UnsupportedError("an average over padding and pixels beyond it is not translated", hint=HINT)
    counted = int(include and any(padding))
    result = _pool(t, node, source, kernel, stride, padding, ceil_mode, {0: _AVERAGE, 6: counted})
    if divisor is None:
        return result
    factor = math.prod(kernel) / divisor
    return t.network.add("BinaryOp", node.name, [result], result.shape, {0: MUL, 1: 1, 2: factor})


def _pool(
    t: Translation,
    node: torch.fx.Node,
    source: torch.fx.Node,
    kernel: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    parameters: dict[int, Parameter],
) -> Value:
    kernel, stride, padding = pair(kernel), pair(stride), pair(padding)
    parameters |= {1: kernel[1], 11: kernel[0], 2: stride[1], 12: stride[0], 3: padding[1], 13: padding[0]}
    parameters |= {14: padding[1], 15: padding[0], 5: int(not ceil_mode)}
    shape = (
        shape_of(node) if not isinstance(node.meta["val"], tuple | list) else tuple(node.meta["val"][0].shape)
    )
    rounded = [
        -(-(size + 2 * pad - window) // step) + 1
        for size, pad, window, step in zip(shape_of(source)[2:], padding, kernel, stride, strict=True)
    ]
    if ceil_mode and tuple(rounded) != shape[2:]:
        raise UnsupportedError(
            "a pooling window that would start in the padding is not translated", hint=HINT
        )
    value = t.take(source, _maps(shape_of(source)))
    return t.network.add("Pooling", node.name, [value], _maps(shape), parameters)


def _maps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The maps of a batch as channels of one, for layers that compute each channel separately."""
    *lead, height, width = shape
    return math.prod(lead), height, width


@translates(aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default)
def _nearest(t: Translation, node: torch.fx.Node) -> Value:
    return _resized(t, node, {0: 1})


@translates(aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default)
def _bilinear(t: Translation, node: torch.fx.Node) -> Value:
    return _resized(t, node, {0: 2, 6: int(bool(arguments(node)[2]))})


def _resized(t: Translation, node: torch.fx.Node, parameters: dict[int, Parameter]) -> Value:
    source = arguments(node)[0]
    shape = _maps(shape_of(node))
    parameters |= {3: shape[1], 4: shape[2]}
    value = t.take(source, _maps(shape_of(source)))
    return t.network.add("Interp", node.name, [value], shape, parameters)


@translates(aten.pixel_shuffle.default)
def _pixel_shuffle(t: Translation, node: torch.fx.Node) -> Value:
    source, factor = arguments(node)
    require_single(source)
    value = t.take(source, shape_of(source)[1:])
    return t.network.add("PixelShuffle", node.name, [value], shape_of(node)[1:], {0: factor})


@translates(aten.layer_norm.default)
def _layer_norm(t: Translation, node: torch.fx.Node) -> Value:
    source, normalized, weight, bias, eps, _ = arguments(node)
    size = math.prod(normalized)
    weights = _scale_and_shift(t, weight, bias, size)
    parameters: dict[int, Parameter] = {0: size, 1: float(eps), 2: int(bool(weights))}
    value = t.take(source, _rows(source, size))
    return t.network.add("LayerNorm", node.name, [value], value.shape, parameters, weights)


@translates(aten.rms_norm.default)
def _rms_norm(t: Translation, node: torch.fx.Node) -> Value:
    source, normalized, weight, eps = arguments(node)
    size = math.prod(normalized)
    weights = () if weight is None else (Weight(t.weight(weight, "scale of a norm"), tagged=False),)
    epsilon = torch.finfo(torch.float32).eps if eps is None else float(eps)
    parameters: dict[int, Parameter] = {0: size, 1: epsilon, 2: len(weights)}
    value = t.take(source, _rows(source, size))
    return t.network.add("RMSNorm", node.name, [value], value.shape, parameters, weights)


def _rows(source: torch.fx.Node, size: int) -> tuple[int, ...]:
    rows = math.prod(shape_of(source)) // size
    return (rows, size) if rows > 1 else (size,)


@translates(aten.group_norm.default)
def _group_norm(t: Translation, node: torch.fx.Node) -> Value:
    source, groups, weight, bias, eps, _ = arguments(node)
    require_single(source)
    shape = shape_of(source)[1:]
    weights = _scale_and_shift(t, weight, bias, shape[0])
    parameters: dict[int, Parameter] = {0: groups, 1: shape[0], 2: float(eps), 3: int(bool(weights))}
    return t.network.add("GroupNorm", node.name, [t.take(source, shape)], shape, parameters, weights)


@translates(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(t: Translation, node: torch.fx.Node) -> list[Value]:
    source, weight, bias, mean, variance, _, eps = arguments(node)
    channels = shape_of(source)[1]
    scale, shift = _scale_and_shift(t, weight, bias, channels) or _ones_and_zeros(channels)
    average, spread = (t.weight(part, "statistic of a batch norm") for part in (mean, variance))
    frame, axes = t.frame(shape_of(source), 1)
    value = t.take(source, frame)
    if axes[1] == 0:  # the outermost axis, along which ncnn's layer goes
        parameters: dict[int, Parameter] = {0: channels, 1: float(eps)}
        weights = (scale, Weight(average, tagged=False), Weight(spread, tagged=False), shift)
        return [t.network.add("BatchNorm", node.name, [value], frame, parameters, weights)]
    factors = scale.values / np.sqrt(spread + eps)
    shape = tuple(channels if place == axes[1] else 1 for place in range(len(frame)))
    for name, kind, numbers in (("scale", MUL, factors), ("shift", ADD, shift.values - average * factors)):
        data = Weight(numbers.astype("float32"), tagged=False)
        operand = t.network.add("MemoryData", f"{node.name}_{name}_data", [], shape, sizes(shape), (data,))
        value = t.network.add("BinaryOp", f"{node.name}_{name}", [value, operand], frame, {0: kind})
    return [value]


def _scale_and_shift(t: Translation, weight: Any, bias: Any, size: int) -> tuple[Weight, ...]:
    """Both, if there is one of them."""
    if weight is None and bias is None:
        return ()
    default = _ones_and_zeros(size)
    return tuple(
        standard if part is None else Weight(t.weight(part, "scale or shift of a norm"), tagged=False)
        for part, standard in zip((weight, bias), default, strict=True)
    )


def _ones_and_zeros(size: int) -> tuple[Weight, Weight]:
    import numpy

    return Weight(numpy.ones(size, "float32"), tagged=False), Weight(
        numpy.zeros(size, "float32"), tagged=False
    )
