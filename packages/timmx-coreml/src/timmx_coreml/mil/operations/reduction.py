"""MIL's reductions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from timmx_coreml.mil.operations.registry import Ints, operation

if TYPE_CHECKING:
    from collections.abc import Callable


def _reduction(name: str, compute: Callable[[Tensor], Tensor]) -> None:
    """Register a reduction; `compute` takes (..., elements) and reduces the last dimension, keeping it."""

    def kernel(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
        chosen = sorted({axis % x.ndim for axis in (range(x.ndim) if axes is None else axes)})
        others = [axis for axis in range(x.ndim) if axis not in chosen]
        flat = x.permute(*others, *chosen).reshape(
            *(x.shape[axis] for axis in others), math.prod(x.shape[axis] for axis in chosen)
        )
        reduced = compute(flat).squeeze(-1)
        return (
            reduced.reshape([1 if axis in chosen else x.shape[axis] for axis in range(x.ndim)])
            if keep_dims
            else reduced
        )

    operation(name)(kernel)


def _mean(x: Tensor) -> Tensor:
    return (x if x.is_floating_point() else x.double()).mean(-1, keepdim=True)


def _l2_norm(x: Tensor) -> Tensor:
    return torch.sqrt(torch.square(x).sum(-1, keepdim=True))


def _log_sum(x: Tensor) -> Tensor:
    return torch.log(x.sum(-1, keepdim=True))


def _log_sum_exp(x: Tensor) -> Tensor:
    return torch.logsumexp(x if x.is_floating_point() else x.double(), -1, keepdim=True)


_reduction("reduce_l1_norm", lambda x: x.abs().sum(-1, keepdim=True))
_reduction("reduce_l2_norm", _l2_norm)
_reduction("reduce_log_sum", _log_sum)
_reduction("reduce_log_sum_exp", _log_sum_exp)
_reduction("reduce_max", lambda x: x.amax(-1, keepdim=True))
_reduction("reduce_mean", _mean)
_reduction("reduce_min", lambda x: x.amin(-1, keepdim=True))
_reduction("reduce_prod", lambda x: x.prod(-1, keepdim=True))
_reduction("reduce_sum", lambda x: x.sum(-1, keepdim=True))
_reduction("reduce_sum_square", lambda x: torch.square(x).sum(-1, keepdim=True))


@operation(result="output_dtype")
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return torch.argmax(x, axis, keepdim=keep_dims)


@operation(result="output_dtype")
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    return torch.argmin(x, axis, keepdim=keep_dims)
