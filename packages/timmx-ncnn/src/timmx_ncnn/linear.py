"""Convolutions, linear layers, matrix products and attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.arithmetic import ADD, MUL, activation
from timmx_ncnn.layers import Parameter, Value, Weight
from timmx_ncnn.movement import cut, is_swap, order_type
from timmx_ncnn.translate import HINT, Translation, numbers, only_user, shape_of, translates

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

aten = torch.ops.aten


def fused_activation(node: torch.fx.Node) -> tuple[torch.fx.Node, dict[int, Parameter]] | None:
    """The activation that alone takes a layer's result, and the parameters with which the layer computes it too."""
    user = only_user(node)
    layer = activation(user) if user is not None else None
    if user is None or layer is None:
        return None
    match layer:
        case "ReLU", {0: slope}:
            return user, {9: 2, 10: (slope,)}  # type: ignore[dict-item]
        case "ReLU", _:
            return user, {9: 1}
        case "Clip", {0: low, 1: high}:
            return user, {9: 3, 10: (low, high)}  # type: ignore[dict-item]
        case "Sigmoid", _:
            return user, {9: 4}
        case "Mish", _:
            return user, {9: 5}
        case "HardSwish", {0: alpha, 1: beta}:
            return user, {9: 6, 10: (alpha, beta)}  # type: ignore[dict-item]
    return None


def add_fused(
    t: Translation,
    node: torch.fx.Node,
    kind: str,
    value: Value,
    shape: Sequence[int],
    parameters: dict[int, Parameter],
    weights: tuple[Weight, ...],
) -> Value:
    """A layer with weights, and the activation after it, if ncnn computes both at once."""
    fused = fused_activation(node)
    if fused is None:
        return t.network.add(kind, node.name, [value], shape, parameters, weights)
    user, more = fused
    result = t.network.add(kind, user.name, [value], shape, parameters | more, weights)
    t.replaces(user, result)
    return result


def weights_of(t: Translation, weight: np.ndarray, bias: Any) -> tuple[Weight, ...]:
    """The weight and, if there is one, the bias."""
    both = (Weight(weight),)
    return both if bias is None else (*both, Weight(t.weight(bias, "bias"), tagged=False))


@translates(aten.conv2d.default, aten.conv2d.padding)
def _conv2d(t: Translation, node: torch.fx.Node) -> Value:
    source, weight, bias, stride, padding, dilation, groups = (
        *node.args,
        *(None, [1, 1], [0, 0], [1, 1], 1)[len(node.args) - 2 :],
    )
    assert isinstance(source, torch.fx.Node)
    stride, dilation = _pair(stride), _pair(dilation)
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
        return _inner_product(t, node, source, data, bias, channels)
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
        "Permute", f"{node.name}_maps", [value], (channels, number, height * width), {0: order_type((1, 0, 2))}
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
    source, weight, bias, stride, padding, dilation, groups = (
        *node.args,
        *(None, [1], [0], [1], 1)[len(node.args) - 2 :],
    )
    assert isinstance(source, torch.fx.Node)
    _require_single(source)
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
    source, weight, bias, stride, padding, output_padding, groups, dilation = (
        *node.args,
        *(None, [1, 1], [0, 0], [0, 0], 1, [1, 1])[len(node.args) - 2 :],
    )
    assert isinstance(source, torch.fx.Node)
    _require_single(source)
    stride, padding, extra, dilation = map(_pair, (stride, padding, output_padding, dilation))
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


def _require_single(source: torch.fx.Node) -> None:
    if (number := shape_of(source)[0]) != 1:
        raise UnsupportedError(f"ncnn's convolution takes one map, not {number}", hint=HINT)


def _pair(sizes: Any) -> list[int]:
    return [*sizes, *sizes][:2] if isinstance(sizes, list | tuple) else [sizes, sizes]


def _sides(padding: Any, window: Sequence[int], dilation: Sequence[int]) -> tuple[int, int, int, int]:
    """Pixels added at the top, left, bottom and right."""
    if isinstance(padding, str):
        total = [
            step * (size - 1) if padding == "same" else 0 for size, step in zip(window, dilation, strict=True)
        ]
        return total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2
    high, wide = _pair(padding)
    return high, wide, high, wide


def _inner_product(
    t: Translation, node: torch.fx.Node, source: torch.fx.Node, weight: np.ndarray, bias: Any, outputs: int
) -> Value:
    """A linear layer of a vector."""
    value = t.take(source, (weight.size // outputs,))
    parameters: dict[int, Parameter] = {0: outputs, 1: int(bias is not None), 2: weight.size}
    return add_fused(t, node, "InnerProduct", value, (outputs,), parameters, weights_of(t, weight, bias))


@translates(aten.linear.default)
def _linear(t: Translation, node: torch.fx.Node) -> Value:
    source, weight, bias = (*node.args, None)[:3]
    assert isinstance(source, torch.fx.Node)
    return product_with_weight(
        t, node, source, t.weight(weight, "weight of a linear layer"), bias, shape_of(weight)[0]
    )


def product_with_weight(
    t: Translation, node: torch.fx.Node, source: torch.fx.Node, weight: np.ndarray, bias: Any, outputs: int
) -> Value:
    """A linear layer: of one vector by `InnerProduct`, of several by `Gemm`.

    Args:
        weight: (outputs, inputs), flat.
    """
    inputs = weight.size // outputs
    rows = math.prod(shape_of(source)) // inputs
    if rows == 1:
        return _inner_product(t, node, source, weight, bias, outputs)
    parameters: dict[int, Parameter] = {2: 0, 3: 1, 5: 1, 6: 1, 8: outputs, 9: inputs}
    parameters[10] = -1 if bias is None else 4
    weights = [Weight(weight)] + ([] if bias is None else [Weight(t.weight(bias, "bias"))])
    value = t.take(source, (rows, inputs))
    return t.network.add("Gemm", node.name, [value], (rows, outputs), parameters, tuple(weights))


@translates(aten.addmm.default)
def _addmm(t: Translation, node: torch.fx.Node) -> Value:
    bias, source, weight = node.args[:3]
    constant = t.constant(weight)
    if constant is None or t.constant(bias) is None or node.kwargs or len(shape_of(bias)) != 1:  # type: ignore[arg-type]
        raise UnsupportedError("the sum of a matrix and a product is not translated", hint=HINT)
    assert isinstance(source, torch.fx.Node)
    return product_with_weight(t, node, source, numbers(constant.t()), bias, constant.shape[1])


@translates(aten.mm.default, aten.bmm.default, aten.matmul.default)
def _matmul(t: Translation, node: torch.fx.Node) -> Value:
    first, second = node.args
    assert isinstance(first, torch.fx.Node)
    assert isinstance(second, torch.fx.Node)
    constant = t.constant(second)
    if constant is not None and constant.ndim <= 2 and len(shape_of(first)) > 1:
        constant = constant.reshape(constant.shape[0], -1)
        return product_with_weight(t, node, first, numbers(constant.t()), None, constant.shape[1])
    left, right = shape_of(first), shape_of(second)
    if len(left) < 2 or len(right) < 2:
        raise UnsupportedError("products of a vector and a matrix are not translated", hint=HINT)
    swapped = is_swap(second) and constant is None
    if swapped:  # the product takes the transposed matrix
        second = second.args[0]
        assert isinstance(second, torch.fx.Node)
        right = shape_of(second)
    lead = torch.broadcast_shapes(left[:-2], right[:-2])
    a, b = (math.prod(shape[:-2]) for shape in (left, right))
    total = math.prod(lead)
    if {a, b} <= {1, total}:
        shapes = [(a, *left[-2:]), (b, *right[-2:])]
        out: tuple[int, ...] = (total, *shape_of(node)[-2:])
    else:
        padded = [(*(1,) * (len(lead) - len(shape) + 2), *shape) for shape in (left, right)]
        out, axes = t.frame(shape_of(node), len(lead), len(lead) + 1)
        shapes = [tuple(shape[axis] for axis in axes) for shape in padded]
    operands = [t.take(operand, shape) for operand, shape in zip((first, second), shapes, strict=True)]
    return t.network.add("MatMul", node.name, operands, out, {0: int(swapped)})


@translates(aten.scaled_dot_product_attention.default)
def _attention(t: Translation, node: torch.fx.Node) -> Value:
    query, key, value, mask, _, causal = (*node.args, *(None, 0.0, False)[len(node.args) - 3 :])[:6]
    mask = node.kwargs.get("attn_mask", mask)
    if causal or node.kwargs.get("is_causal"):
        raise UnsupportedError("causal attention is not translated", hint=HINT)
    assert isinstance(query, torch.fx.Node)
    assert isinstance(key, torch.fx.Node)
    assert isinstance(value, torch.fx.Node)
    *lead, length, size = shape_of(query)
    heads, groups = math.prod(lead), math.prod(shape_of(key)[:-2])
    scale = node.kwargs.get("scale") or size**-0.5
    assert isinstance(scale, float | int)
    if groups != heads and not (node.kwargs.get("enable_gqa") and lead[:-1] == [1] * (len(lead) - 1)):
        raise UnsupportedError(
            "attention whose keys are shared by several queries is not translated", hint=HINT
        )
    keys = shape_of(key)[-2]
    q = t.take(query, (heads, length, size))
    k, v = (t.take(part, (groups, keys, shape_of(part)[-1])) for part in (key, value))
    out = (heads, length, v.shape[-1])
    if mask is None:
        return t.network.add("SDPA", node.name, [q, k, v], out, {5: 0, 6: float(scale)})
    assert isinstance(mask, torch.fx.Node)
    mask_lead = math.prod(shape_of(mask)[:-2])
    if shape_of(mask)[-2:] == (length, keys) and mask_lead in (1, heads):
        added = _added_mask(t, mask, (*((mask_lead,) if mask_lead > 1 else ()), length, keys))
        return t.network.add("SDPA", node.name, [q, k, v, added], out, {5: 1, 6: float(scale)})
    return _attention_by_products(t, node, q, k, v, mask, float(scale))


def _added_mask(t: Translation, mask: torch.fx.Node, shape: tuple[int, ...]) -> Value:
    """What is added to the scores."""
    if mask.meta["val"].dtype != torch.bool:
        return t.take(mask, shape)
    allowed = t.constant(mask)
    if allowed is None:
        raise UnsupportedError("a mask of bools that depends on the input is not translated", hint=HINT)
    data = torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)
    return t.network.add(
        "MemoryData", mask.name, [], shape, _memory(shape), (Weight(numbers(data), tagged=False),)
    )


def _memory(shape: tuple[int, ...]) -> dict[int, Parameter]:
    from timmx_ncnn.layers import sizes

    return sizes(shape)


def _attention_by_products(
    t: Translation, node: torch.fx.Node, q: Value, k: Value, v: Value, mask: torch.fx.Node, scale: float
) -> Value:
    """Attention with a mask that several heads or windows share, which `SDPA` does not have."""
    *lead, length, _ = shape_of(node)
    heads, keys = q.shape[0], k.shape[1]
    scaled = t.network.add("BinaryOp", f"{node.name}_scaled", [q], q.shape, {0: MUL, 1: 1, 2: scale})
    scores = t.network.add("MatMul", f"{node.name}_scores", [scaled, k], (heads, length, keys), {0: 1})
    frame, axes = t.frame([*lead, length, keys])
    padded = (1,) * (len(lead) + 2 - len(shape_of(mask))) + shape_of(mask)
    added = _added_mask(t, mask, tuple(padded[axis] for axis in axes))
    scores = t.network.reshape(scores, frame)
    scores = t.network.add("BinaryOp", f"{node.name}_masked", [scores, added], frame, {0: ADD})
    scores = t.network.add("Softmax", f"{node.name}_softmax", [scores], frame, {0: len(frame) - 1, 1: 1})
    scores = t.network.reshape(scores, (heads, length, keys))
    return t.network.add("MatMul", node.name, [scores, v], (heads, length, v.shape[-1]), {0: 0})
