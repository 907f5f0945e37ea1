"""MIL's convolutions, and the padding that they share with pooling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from timmx_coreml.mil.operations.registry import Ints, operation

_CONVOLUTIONS = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}


@operation()
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    pads = padding(pad_type, pad, list(x.shape[2:]), reach, strides)
    before, after = pads[::2], pads[1::2]
    if before != after:
        x, before = functional.pad(x, for_torch(pads)), [0] * rank
    return _CONVOLUTIONS[rank](x, weight, bias, strides, before, dilations, groups)


@operation()
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Ints | None = None,
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    rank = x.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    whole = _TRANSPOSED[rank](x, weight, None, strides, [0] * rank, [0] * rank, groups, dilations)
    sizes = list(whole.shape[2:])
    if pad_type == "same":
        # Like TensorFlow's gradient of a convolution: the odd element is cropped at the end.
        target = [n * stride for n, stride in zip(x.shape[2:], strides, strict=True)]
        target = target if output_shape is None else output_shape[2:]
        extra = [size - n for size, n in zip(sizes, target, strict=True)]
        before = [max(0, n) // 2 for n in extra]
        crop = [n for first, total in zip(before, extra, strict=True) for n in (first, total - first)]
    elif pad_type in ("valid", "custom"):
        crop = list(pad) if pad_type == "custom" and pad is not None else [0] * 2 * rank
        remaining = [size - sum(crop[2 * i : 2 * i + 2]) for i, size in enumerate(sizes)]
        if output_shape is not None and output_shape[2:] != remaining:
            raise NotImplementedError(
                f"pad_type {pad_type!r} with output_shape {output_shape} instead of {remaining}"
            )
    else:
        raise NotImplementedError(f"pad_type {pad_type!r}")
    crop = [-n for n in crop]
    result = functional.pad(whole, for_torch(crop))
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def padding(
    pad_type: str, pad: Ints | None, sizes: list[int], reach: list[int], strides: list[int]
) -> list[int]:
    """Return the padding before and after each spatial dimension in MIL's order: first dimension first.

    Args:
        pad_type: MIL's `pad_type`.
        pad: MIL's `pad`; for `custom` only.
        sizes: the input's sizes.
        reach: the kernel's extent, dilation included.
        strides: the kernel's strides.
    """
    if pad_type == "valid":
        return [0] * 2 * len(sizes)
    if pad_type == "custom":
        return list(pad) if pad is not None else [0] * 2 * len(sizes)
    if pad_type not in ("same", "same_lower"):
        raise NotImplementedError(f"pad_type {pad_type!r}")
    pads = []
    for size, kernel, stride in zip(sizes, reach, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        smaller = total // 2
        pads += [smaller, total - smaller] if pad_type == "same" else [total - smaller, smaller]
    return pads


def for_torch(pads: list[int]) -> list[int]:
    """Reorder MIL's padding for torch.nn.functional.pad: last dimension first."""
    pairs = [pads[start : start + 2] for start in range(0, len(pads), 2)]
    return [n for pair in reversed(pairs) for n in pair]
