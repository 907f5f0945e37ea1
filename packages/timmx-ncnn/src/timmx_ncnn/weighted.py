"""Layers with weights, and the activations that they compute too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.arithmetic import activation
from timmx_ncnn.layers import Parameter, Value, Weight
from timmx_ncnn.translate import HINT, Translation, only_user, shape_of

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
            return user, {9: 2, 10: (slope,)}
        case "ReLU", _:
            return user, {9: 1}
        case "Clip", {0: low, 1: high}:
            return user, {9: 3, 10: (low, high)}
        case "Sigmoid", _:
            return user, {9: 4}
        case "Mish", _:
            return user, {9: 5}
        case "HardSwish", {0: alpha, 1: beta}:
            return user, {9: 6, 10: (alpha, beta)}
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


def require_single(source: torch.fx.Node) -> None:
    if (number := shape_of(source)[0]) != 1:
        raise UnsupportedError(f"ncnn's convolution takes one map, not {number}", hint=HINT)


def pair(sizes: Any) -> list[int]:
    return [*sizes, *sizes][:2] if isinstance(sizes, list | tuple) else [sizes, sizes]


def inner_product(
    t: Translation, node: torch.fx.Node, source: torch.fx.Node, weight: np.ndarray, bias: Any, outputs: int
) -> Value:
    """A linear layer of a vector."""
    value = t.take(source, (weight.size // outputs,))
    parameters: dict[int, Parameter] = {0: outputs, 1: int(bias is not None), 2: weight.size}
    return add_fused(t, node, "InnerProduct", value, (outputs,), parameters, weights_of(t, weight, bias))
