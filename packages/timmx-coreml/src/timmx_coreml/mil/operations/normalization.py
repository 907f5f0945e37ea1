"""MIL's normalizations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from timmx_coreml.mil.operations.registry import Ints, operation


@operation()
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, training=False, eps=epsilon)


@operation()
def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    return _normalize(x, list(range(2, x.ndim)), gamma, beta, epsilon, (-1, *[1] * (x.ndim - 2)))


@operation()
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    chosen = sorted(axis % x.ndim for axis in (range(x.ndim) if axes is None else axes))
    if chosen == list(range(x.ndim - len(chosen), x.ndim)):
        return functional.layer_norm(x, [x.shape[axis] for axis in chosen], gamma, beta, epsilon)
    shape = tuple(x.shape[axis] if axis in chosen else 1 for axis in range(x.ndim))
    return _normalize(x, chosen, gamma, beta, epsilon, shape)


@operation()
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    return x / torch.sqrt(torch.square(x).sum((-3, -2, -1), keepdim=True) + epsilon)


@operation()
def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    if size % 2 == 0:
        raise NotImplementedError("an even size, for which MIL does not document the longer side")
    squares = functional.pad(torch.square(x).movedim(1, -1), (size // 2, size // 2))
    sums = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / torch.pow(k + alpha / size * sums, beta)


def _normalize(
    x: Tensor,
    axes: list[int],
    gamma: Tensor | None,
    beta: Tensor | None,
    epsilon: float,
    shape: tuple[int, ...],
) -> Tensor:
    """Normalize to mean 0 and variance 1 over `axes`; gamma and beta are reshaped to `shape`."""
    centered = x - x.mean(axes, keepdim=True)
    normal = centered / torch.sqrt(torch.square(centered).mean(axes, keepdim=True) + epsilon)
    normal = normal if gamma is None else normal * gamma.reshape(shape)
    return normal if beta is None else normal + beta.reshape(shape)
