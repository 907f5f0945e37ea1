"""MIL's quantization of activations."""

from __future__ import annotations

import torch
from torch import Tensor

from timmx_coreml.mil.operations.registry import operation

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


@operation(result="output_dtype")
def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    if output_dtype not in _RANGES:
        raise NotImplementedError(f"output_dtype {output_dtype!r}")
    steps = torch.round(input / along(scale, input.ndim, axis))
    if zero_point is not None:
        steps = steps + along(zero_point, input.ndim, axis)
    return steps.clamp(*_RANGES[output_dtype])


@operation(result="scale")
def dequantize(
    input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    steps = input if zero_point is None else input - along(zero_point, input.ndim, axis)
    return along(scale, input.ndim, axis) * steps


def along(parameter: Tensor, rank: int, axis: int | None) -> Tensor:
    """Reshape a vector to broadcast along `axis` of a tensor of this rank; a scalar stays as it is."""
    if parameter.ndim == 0:
        return parameter
    if parameter.ndim != 1 or axis is None:
        raise ValueError("its scale or zero point is neither a scalar nor a vector with an axis")
    sizes = [1] * rank
    sizes[axis] = -1
    return parameter.reshape(sizes)
