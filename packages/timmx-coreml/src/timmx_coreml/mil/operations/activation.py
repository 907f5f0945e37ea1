"""MIL's activations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from timmx_coreml.mil.operations.registry import operation


@operation()
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@operation()
def relu6(x: Tensor) -> Tensor:
    return x.clamp(0, 6)


@operation()
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "EXACT":
        return functional.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return functional.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise NotImplementedError(f"mode {mode!r}")


@operation()
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@operation()
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


@operation()
def silu(x: Tensor) -> Tensor:
    return functional.silu(x)


@operation()
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@operation()
def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype))


@operation()
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return _by_channel(alpha, x) * softplus(_by_channel(beta, x) * x)


@operation()
def softsign(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


@operation()
def elu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0)))


@operation()
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


@operation()
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, _by_channel(alpha, x) * x)


@operation()
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


@operation()
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


@operation()
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x >= alpha, x, 0)


@operation()
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.tanh(beta * x)


def by_name(name: str, x: Tensor) -> Tensor:
    """Apply an activation that a recurrent operation names."""
    if name == "tanh":
        return torch.tanh(x)
    if name == "sigmoid":
        return torch.sigmoid(x)
    if name == "relu":
        return torch.relu(x)
    if name == "linear":
        return x
    raise NotImplementedError(f"activation {name!r}, whose constants MIL does not document")


def _by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """Reshape (C,) to (C, 1, ...) to broadcast along the second dimension of x."""
    return parameter.reshape(-1, *[1] * (x.ndim - 2)) if parameter.numel() > 1 or x.ndim > 2 else parameter
