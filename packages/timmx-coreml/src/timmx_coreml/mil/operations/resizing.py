"""MIL's resizing of the last dimensions, and cropping.

A dimension is sampled at a grid of positions; MIL's documentation of `resize_bilinear` defines the grids.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from timmx_coreml.mil.operations.registry import Ints, operation


@operation()
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    half = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and half:
        raise NotImplementedError("align_corners together with half_pixel_centers")
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if half else "DEFAULT"
    height, width = _upsampled_size(x, scale_factor_height, scale_factor_width)
    return _linear(_linear(x, -2, height, mode), -1, width, mode)


@operation(raw=True)
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    scales = (scale_factor_height, scale_factor_width)
    for axis, scale, out in zip((-2, -1), scales, _upsampled_size(x, *scales), strict=True):
        size = x.shape[axis]
        # coremltools adds up to 1e-4 to the result's size, so that the floor is safe.
        if abs(scale * size - out) > 1e-3:
            raise NotImplementedError(f"a factor {scale} that does not give an integer size from {size}")
        x = x.index_select(axis, torch.arange(out).mul(size).div(out, rounding_mode="floor"))
    return x


@operation()
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    rows = _linear(x, -2, target_size_height, sampling_mode)
    return _linear(rows, -1, target_size_width, sampling_mode)


@operation(raw=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    return _nearest(_nearest(x, -2, target_size_height), -1, target_size_width)


@operation()
def resize(
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    if interpolation_mode not in ("LINEAR", "NEAREST_NEIGHBOR"):
        raise NotImplementedError(f"interpolation_mode {interpolation_mode!r}")
    if interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode != "DEFAULT":
        raise NotImplementedError(f"NEAREST_NEIGHBOR with sampling_mode {sampling_mode!r}")
    for axis in range(-resized_dims, 0):
        size = shape[axis] or x.shape[axis]
        if size != x.shape[axis]:
            x = (
                _linear(x, axis, size, sampling_mode)
                if interpolation_mode == "LINEAR"
                else _nearest(x, axis, size)
            )
    return x


@operation(raw=True)
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _upsampled_size(x: Tensor, scale_height: float, scale_width: float) -> tuple[int, int]:
    """Return the floor of size times scale, in float32 as in MIL's type inference."""
    height, width = (
        int(np.floor(np.float32(scale) * size))
        for scale, size in zip((scale_height, scale_width), x.shape[-2:], strict=True)
    )
    return height, width


def grid(size: int, out: int, mode: str) -> Tensor:
    """Return the positions from 0 to size - 1 of `out` samples, in float64."""
    steps = torch.arange(out, dtype=torch.float64)
    if mode == "ALIGN_CORNERS" and out == 1:
        positions = steps + (size - 1) / 2
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        positions = steps * ((size - 1) / max(1, out - 1))
    elif mode == "DEFAULT":
        positions = steps * (size / out)  # (size - size / out) / (out - 1) is the same
    elif mode == "OFFSET_CORNERS":
        positions = (steps + 0.5) * (max(1, size - 1) / out)
    elif mode == "UNALIGN_CORNERS":
        positions = (steps + 0.5) * (size / out) - 0.5
    else:
        raise NotImplementedError(f"sampling_mode {mode!r}")
    return positions.clamp(0, size - 1)


def _linear(x: Tensor, axis: int, out: int, mode: str) -> Tensor:
    positions = grid(x.shape[axis], out, mode)
    low = positions.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = (positions - low).float().reshape(-1, *[1] * (-axis - 1))
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _nearest(x: Tensor, axis: int, out: int) -> Tensor:
    """Sample the pixel under each output pixel's center.

    MIL does not document this. coremltools translates TensorFlow's nearest neighbor with half_pixel_centers to the
    operations that use this function, and without it to `upsample_nearest_neighbor`.
    """
    size = x.shape[axis]
    # In integers: a float could round to just below the position.
    positions = torch.arange(out).mul(2).add(1).mul(size).div(2 * out, rounding_mode="floor")
    return x.index_select(axis, positions)
