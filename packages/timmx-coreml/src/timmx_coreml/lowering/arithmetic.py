"""Elementwise functions and statistics that coremltools 9.0 lacks or approximates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import traced_constant
from torch._decomp import get_decompositions

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten

_LINEAR_FROM = 15.0
"""From here on, softplus equals its linear replacement in float32: log(1 + exp(15)) - 15 is 3e-7."""


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the functions by operation."""
    table: dict[Any, Callable[..., Any]] = dict(get_decompositions([aten.addcmul, aten.addcdiv, aten.celu]))
    return table | {
        aten.reciprocal.default: _reciprocal,
        aten.softplus.default: _softplus,
        aten.var_mean.correction: _var_mean,
        aten.var_mean.dim: _var_mean_of_dim,
        aten.pixel_unshuffle.default: _pixel_unshuffle,
    }


def _reciprocal(x: torch.Tensor) -> Any:
    """Divide: coremltools 9.0 writes MIL's `inverse` with its default epsilon, which is 1 / (x + 1e-4)."""
    return aten.div.Tensor(traced_constant([1.0], x), x)


def _softplus(x: torch.Tensor, beta: float = 1, threshold: float = 20) -> Any:
    """Apply the threshold of torch's linear branch, which coremltools 9.0 ignores."""
    if threshold >= _LINEAR_FROM:
        return NotImplemented
    return torch.where(x * beta > threshold, x, aten.softplus.default(x, beta, 20))


def _var_mean(
    x: torch.Tensor, dim: list[int] | None = None, *, correction: Any = None, keepdim: bool = False
) -> Any:
    return aten.var.correction(x, dim, correction=correction, keepdim=keepdim), x.mean(dim, keepdim)


def _var_mean_of_dim(
    x: torch.Tensor, dim: list[int] | None, unbiased: bool = True, keepdim: bool = False
) -> Any:
    return _var_mean(x, dim, correction=int(unbiased), keepdim=keepdim)


def _pixel_unshuffle(x: torch.Tensor, factor: int) -> Any:
    """Rearrange tensors of rank 5; Core ML has the operation only since ios16."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch * channels, height // factor, factor, width // factor, factor)
    return x.permute(0, 2, 4, 1, 3).reshape(
        batch, channels * factor * factor, height // factor, width // factor
    )
