"""MIL's pooling."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from timmx_coreml.mil.operations.convolution import for_torch, padding
from timmx_coreml.mil.operations.registry import Ints, operation

_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@operation()
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str = "valid",
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or [1] * len(kernel_sizes)
    pads, beyond = _borders(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    whole = [n + extra for n, extra in zip(pads, beyond, strict=True)]
    if any(whole):
        x = functional.pad(x, for_torch(whole), value=-math.inf)
    pooled: Tensor = _MAX[len(kernel_sizes)](x, kernel_sizes, strides)
    return pooled


@operation()
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str = "valid",
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    strides = strides or [1] * len(kernel_sizes)
    pads, beyond = _borders(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    sums = _window_sums(x, kernel_sizes, strides, pads, beyond)
    if not any(beyond) and not (any(pads) and exclude_padding_from_average):
        return sums / math.prod(kernel_sizes)
    # Elements beyond the padding, which ceil_mode may reach, never count, as in PyTorch.
    ones = torch.ones(1, 1, *x.shape[2:])
    if not exclude_padding_from_average:
        ones, pads = functional.pad(ones, for_torch(pads), value=1.0), [0] * len(pads)
    return sums / _window_sums(ones, kernel_sizes, strides, pads, beyond)


@operation()
def l2_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str = "valid",
    strides: Ints | None = None,
    pad: Ints | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    strides = strides or [1] * len(kernel_sizes)
    pads, beyond = _borders(x, kernel_sizes, pad_type, strides, pad, ceil_mode)
    return torch.sqrt(_window_sums(torch.square(x), kernel_sizes, strides, pads, beyond))


def _window_sums(
    x: Tensor, kernel: list[int], strides: list[int], pads: list[int], beyond: list[int]
) -> Tensor:
    """Sum each window; x is padded with zeros."""
    whole = [n + extra for n, extra in zip(pads, beyond, strict=True)]
    x = functional.pad(x, for_torch(whole)) if any(whole) else x
    if len(kernel) == 1:
        kernel, strides = [1, *kernel], [1, *strides]
        return functional.avg_pool2d(x.unsqueeze(2), kernel, strides, divisor_override=1).squeeze(2)
    pool = functional.avg_pool2d if len(kernel) == 2 else functional.avg_pool3d
    return pool(x, kernel, strides, divisor_override=1)


def _borders(
    x: Tensor, kernel: list[int], pad_type: str, strides: list[int], pad: Ints | None, ceil_mode: bool
) -> tuple[list[int], list[int]]:
    """Return the padding of each dimension, and how far ceil_mode's last windows reach beyond it."""
    sizes = list(x.shape[2:])
    pads = padding(pad_type, pad, sizes, kernel, strides)
    beyond = [0] * len(pads)
    if ceil_mode:
        if pad_type not in ("valid", "custom") or pads[::2] != pads[1::2]:
            raise NotImplementedError("ceil_mode with uneven padding")
        for index, (size, reach, stride) in enumerate(zip(sizes, kernel, strides, strict=True)):
            around = pads[2 * index]
            windows = -(-(size + 2 * around - reach) // stride) + 1
            if around and (windows - 1) * stride >= size + around:
                windows -= 1
            if (windows - 1) * stride >= size + 2 * around:
                raise NotImplementedError("ceil_mode with an empty window")
            beyond[2 * index + 1] = max(0, (windows - 1) * stride + reach - size - 2 * around)
    return pads, beyond
