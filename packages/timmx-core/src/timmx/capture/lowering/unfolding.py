"""`nn.Unfold` and `nn.Fold` as convolutions with kernels of a single 1: exact, and open in the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name

from timmx.capture.lowering.constants import traced_constant


def im2col(
    x: torch.Tensor, kernel: list[int], dilation: list[int], padding: list[int], stride: list[int]
) -> torch.Tensor:
    """`aten.im2col`."""
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
    """`aten.col2im`."""
    number = [
        (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]
    channels = x.shape[1] // (kernel[0] * kernel[1])
    weight = _single_ones(kernel, x, channels)
    maps = x.reshape(x.shape[0], x.shape[1], *number)
    whole = F.conv_transpose2d(maps, weight, None, stride, groups=channels, dilation=dilation)
    return crop_padding(whole, size, padding)


def crop_padding(whole: torch.Tensor, size: list[int], padding: list[int]) -> torch.Tensor:
    """The map of this size behind the padding; the windows may end before its edge, and behind them are zeros."""
    lacking = [max(0, padding[i] + size[i] - whole.shape[2 + i]) for i in range(2)]
    if any(lacking):
        whole = F.pad(whole, (0, lacking[1], 0, lacking[0]))
    return whole[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]


def _single_ones(kernel: list[int], like: torch.Tensor, channels: int) -> torch.Tensor:
    """(channels x positions, 1, height, width): a kernel for each position in a window, with a 1 there."""
    height, width = kernel
    ones = [
        [[[float(row * width + column == one) for column in range(width)] for row in range(height)]]
        for one in range(height * width)
    ]
    return traced_constant(ones * channels, like)
