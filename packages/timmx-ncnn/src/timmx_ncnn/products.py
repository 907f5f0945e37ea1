"""Linear layers and matrix products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.layers import Parameter, Value, Weight
from timmx_ncnn.movement import is_swap
from timmx_ncnn.translate import HINT, Translation, arguments, numbers, shape_of, translates
from timmx_ncnn.weighted import inner_product

if TYPE_CHECKING:
    import numpy as np

aten = torch.ops.aten


@translates(aten.linear.default)
def _linear(t: Translation, node: torch.fx.Node) -> Value:
    source, weight, bias = arguments(node)
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
        return inner_product(t, node, source, weight, bias, outputs)
    parameters: dict[int, Parameter] = {2: 0, 3: 1, 5: 1, 6: 1, 8: outputs, 9: inputs}
    parameters[10] = -1 if bias is None else 4
    weights = [Weight(weight)] + ([] if bias is None else [Weight(t.weight(bias, "bias"))])
    value = t.take(source, (rows, inputs))
    return t.network.add("Gemm", node.name, [value], (rows, outputs), parameters, tuple(weights))


@translates(aten.addmm.default)
def _addmm(t: Translation, node: torch.fx.Node) -> Value:
    bias, source, weight, beta, alpha = arguments(node)
    constant = t.constant(weight)
    if constant is None or t.constant(bias) is None or (beta, alpha) != (1, 1) or len(shape_of(bias)) != 1:
        raise UnsupportedError("the sum of a matrix and a product is not translated", hint=HINT)
    return product_with_weight(t, node, source, numbers(constant.t()), bias, constant.shape[1])


@translates(aten.mm.default, aten.bmm.default, aten.matmul.default)
def _matmul(t: Translation, node: torch.fx.Node) -> Value:
    first, second = arguments(node)
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
