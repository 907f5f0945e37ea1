"""Convolutions as matrix products: the only layers for which XNNPACK has 8-bit weights with float activations."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from timmx.plugin import decompose, fold_constants

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

aten = torch.ops.aten

_MOST_PIXELS = 49
"""Of a window; a convolution with a larger one stays, since each pixel is a slice."""


def as_matrices(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The program's module with convolutions of all channels as linear layers, which have no bias.

    The bias is added afterwards: executorch 1.5 writes no bias for a layer of which only the weight is quantized.
    """
    table: dict[Any, Callable[..., Any]] = {aten.conv2d.default: _conv2d, aten.linear.default: _linear}
    with torch.no_grad():
        module = decompose(program, table).module()
    fold_constants(module)
    return module


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    return NotImplemented if bias is None else F.linear(x, weight) + bias


def _conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """The product of the weight, as a matrix, and a matrix with the pixels of each window in a row."""
    if groups != 1 or x.ndim != 4:
        return NotImplemented
    stride, padding, dilation = ([*part, *part][:2] for part in (stride, padding, dilation))
    height, width = x.shape[2:]
    window = weight.shape[-2:]
    rows, columns = (
        (size + 2 * pad - step * (count - 1) - 1) // jump + 1
        for size, pad, step, count, jump in zip(
            (height, width), padding, dilation, window, stride, strict=True
        )
    )
    sizes = [
        step * (count - 1) + jump * number  # so that every window's slice has `jump * number` pixels
        for step, count, jump, number in zip(dilation, window, stride, (rows, columns), strict=True)
    ]
    after = [need - size - pad for need, size, pad in zip(sizes, (height, width), padding, strict=True)]
    x = x.permute(0, 2, 3, 1)
    if list(window) == stride and not any(padding) and dilation == [1, 1]:
        pixels = _patches(x, rows, columns, stride)
        return _product(pixels, weight, bias)
    if math.prod(window) > _MOST_PIXELS:
        return NotImplemented
    x = F.pad(x, [0, 0, padding[1], max(0, after[1]), padding[0], max(0, after[0])])
    parts = [
        _every(
            x.narrow(1, i * dilation[0], rows * stride[0]).narrow(2, j * dilation[1], columns * stride[1]),
            stride,
        )
        for i, j in itertools.product(range(window[0]), range(window[1]))
    ]
    return _product(parts[0] if len(parts) == 1 else torch.cat(parts, -1), weight, bias)


def _product(pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    y = F.linear(pixels, weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1))
    return (y if bias is None else y + bias).permute(0, 3, 1, 2)


def _patches(x: torch.Tensor, rows: int, columns: int, stride: Sequence[int]) -> torch.Tensor:
    """The pixels of each window in a row, if windows do not overlap."""
    batch, _, _, channels = x.shape
    x = x.narrow(1, 0, rows * stride[0]).narrow(2, 0, columns * stride[1])
    x = x.reshape(batch, rows, stride[0], columns, stride[1] * channels).permute(0, 1, 3, 2, 4)
    return x.reshape(batch, rows, columns, -1)


def _every(x: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Every `stride`-th pixel of (N, H, W, C); XNNPACK's slices have no steps."""
    if list(stride) == [1, 1]:
        return x
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // stride[0], stride[0], width // stride[1], stride[1] * channels)
    return (
        x.narrow(2, 0, 1)
        .narrow(4, 0, channels)
        .reshape(batch, height // stride[0], width // stride[1], channels)
    )
