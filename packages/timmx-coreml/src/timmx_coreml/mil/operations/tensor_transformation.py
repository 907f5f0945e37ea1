"""MIL's operations that change the shape or order of a tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.nn import functional

from timmx_coreml.mil.operations.registry import BoolTuple, Ints, IntTuple, Tensors, operation

if TYPE_CHECKING:
    from torch import Tensor

_IOS17 = 7


@operation(raw=True)
def reshape(x: Tensor, shape: Ints, opset: int) -> Tensor:
    sizes = list(shape)
    if 0 in sizes and x.numel():
        if opset < _IOS17 and len(sizes) != x.ndim:
            raise ValueError(f"a 0 in the shape {shape} for {x.ndim} dimensions")
        # Counted from the right since iOS 17, which is the same if the ranks are equal.
        inherited = [1] * max(0, len(sizes) - x.ndim) + list(x.shape)
        inherited = inherited[len(inherited) - len(sizes) :]
        sizes = [size or old for size, old in zip(sizes, inherited, strict=True)]
    return x.reshape(sizes)


@operation(raw=True)
def reshape_like(
    x: Tensor, ref_tensors: Tensors, begins: IntTuple, ends: IntTuple, end_masks: BoolTuple
) -> Tensor:
    sizes: list[int] = []
    for reference, begin, end, to_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += reference.shape[begin : None if to_end else end]
    return x.reshape(sizes)


@operation(raw=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operation(raw=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


@operation(raw=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(perm)


@operation(raw=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operation(raw=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(list(range(x.ndim)) if axes is None else axes)


@operation(raw=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    # Channels are ordered (block row, block column, channel), as in TensorFlow.
    n, c, h, w = x.shape
    blocks = x.reshape(n, block_size, block_size, c // block_size**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * block_size, w * block_size)


@operation(raw=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block_size, block_size, w // block_size, block_size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // block_size, w // block_size)


@operation(raw=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return functional.pixel_shuffle(x, upscale_factor)


@operation(raw=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return functional.pixel_unshuffle(x, downscale_factor)


@operation(raw=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    axis %= x.ndim
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)
