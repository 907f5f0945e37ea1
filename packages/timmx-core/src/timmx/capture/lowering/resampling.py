"""Interpolation as two matrix products, for formats that lack it or compute it wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from timmx.capture.lowering.constants import traced_constant

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten

BICUBIC_OR_ANTIALIASED = (
    aten.upsample_bicubic2d.vec,
    aten.upsample_bicubic2d.default,
    aten._upsample_bicubic2d_aa.vec,
    aten._upsample_bicubic2d_aa.default,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bilinear2d_aa.default,
)
"""Interpolations that coremltools 9.0 and litert-torch 0.10 lack or convert wrongly."""


def resize_by_matmul(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """`op` as (rows) @ x @ (columns): exact, since interpolation is linear in x and separable."""

    def function(x: torch.Tensor, output_size: list[int] | None, *options: Any) -> Any:
        height, width = x.shape[-2:]
        if not isinstance(height, int) or not isinstance(width, int):
            return NotImplemented
        rows = _matrix(op, height, 0, output_size, options)
        columns = _matrix(op, width, 1, output_size, options)
        return torch.matmul(torch.matmul(traced_constant(rows, x), x), traced_constant(columns, x).t())

    return function


def adaptive_avg_pool2d(x: torch.Tensor, output_size: list[int]) -> Any:
    """`aten.adaptive_avg_pool2d` to several pixels: a plain average for equal windows, otherwise two products."""
    height, width = x.shape[-2:]
    if all(new == 1 for new in output_size) or not isinstance(height, int) or not isinstance(width, int):
        return NotImplemented
    if height % output_size[0] == 0 and width % output_size[1] == 0:
        window = [height // output_size[0], width // output_size[1]]
        return aten.avg_pool2d.default(x, window, window)
    return resize_by_matmul(aten.adaptive_avg_pool2d.default)(x, output_size)


def _matrix(
    op: torch._ops.OpOverload, size: int, axis: int, output_size: list[int] | None, options: tuple[Any, ...]
) -> list[list[float]]:
    """(new size, size): the operation along one axis as a matrix, computed in float64 from single pixels.

    The axis is laid out as the width of an image with a height of one pixel, which no interpolation changes.
    With the axis as the height, torch 2.14.1's antialiased kernels are wrong: they interpolate a column of one pixel's
    width to other numbers than the same column in a wider image.
    """
    new_size = None if output_size is None else [1, output_size[axis]]
    axis_options: list[Any] = []
    scales = [option for option in options if isinstance(option, float)]  # of the height, then of the width
    for option in options:
        if isinstance(option, list):
            axis_options.append([1.0, option[axis]])
        elif isinstance(option, float):
            axis_options.append(1.0 if len(axis_options) == options.index(scales[0]) else scales[axis])
        else:
            axis_options.append(option)
    with _disable_current_modes():
        pixels = torch.eye(size, dtype=torch.float64).view(1, size, 1, size)
        matrix: list[list[float]] = op(pixels, new_size, *axis_options).reshape(size, -1).t().tolist()
    return matrix
