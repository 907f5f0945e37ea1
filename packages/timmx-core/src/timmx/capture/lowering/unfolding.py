"""`nn.Unfold` and `nn.Fold` as convolutions with kernels of a single 1: exact, also with a dynamic batch size."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name

from timmx.capture.lowering.constants import traced_constant


def im2col(
    x: torch.Tensor, kernel: list[int], dilation: list[int], padding: list[int], stride: list[int]
) -> torch.Tensor:
    """`aten.im2col` as a convolution."""
    channels = x.shape[1]
    weight = _single_ones(kernel, x, channels)
    return F.conv2d(x, weight, None, stride, padding, dilation, channels).flatten(2)


def col2im(
    x: torch.Tensor,
    size: list[int],
    kernel: list[int],
    dilation: list[int],
    padding: list[int],
    stride: list[int],
) -> torch.Tensor:
    """`aten.col2im` as a transposed convolution."""
    number = [
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]
    channels = x.shape[1] // (kernel[0] * kernel[1])
    weight = _single_ones(kernel, x, channels)
    maps = x.reshape(x.shape[0], x.shape[1], *number)
    padded = F.conv_transpose2d(maps, weight, None, stride, groups=channels, dilation=dilation)
    return crop_padding(padded, size, padding)


def crop_padding(padded: torch.Tensor, size: list[int], padding: list[int]) -> torch.Tensor:
    """The map of this size without its padding; where windows end before its edge, zeros are added."""
    missing = [max(0, padding[i] + size[i] - padded.shape[2 + i]) for i in range(2)]
    if any(missing):
        padded = F.pad(padded, (0, missing[1], 0, missing[0]))
    return padded[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]


def _single_ones(kernel: list[int], like: torch.Tensor, channels: int) -> torch.Tensor:
    """(channels x positions, 1, height, width): one kernel per position in a window, with a 1 there."""
    height, width = kernel
    ones = [
        [[[float(row * width + column == position) for column in range(width)] for row in range(height)]]
        for position in range(height * width)
    ]
    return traced_constant(ones * channels, like)
