"""Interpolation as two matrix products, for formats that lack its kind or get it wrong."""

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
"""The kinds that coremltools 9.0 and litert-torch 0.10 lack, or get wrong."""


def resize_by_matmul(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """`op` as (rows) @ x @ (columns): exact, since each kind is linear in x and separable."""

    def function(x: torch.Tensor, output_size: list[int] | None, *options: Any) -> Any:
        height, width = x.shape[-2:]
        if not isinstance(height, int) or not isinstance(width, int):
            return NotImplemented
        rows = _matrix(op, height, 0, output_size, options)
        columns = _matrix(op, width, 1, output_size, options)
        return torch.matmul(torch.matmul(traced_constant(rows, x), x), traced_constant(columns, x).t())

    return function


def adaptive_avg_pool2d(x: torch.Tensor, output_size: list[int]) -> Any:
    """To more than one pixel: a plain average where the windows are even, otherwise two products."""
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
    """(new size, size): what the operation itself, in float64, makes of each pixel alone along one axis.

    The axis is laid out as the width, above a height of one pixel that stays one, which every kind leaves as it is.
    The other way round torch 2.14.1's antialiased kernels are wrong: a column of one pixel's width is interpolated
    to other numbers than the same column in a wider image.
    """
    new = None if output_size is None else [1, output_size[axis]]
    given: list[Any] = []
    alone = [
        option for option in options if isinstance(option, float)
    ]  # the height's scale, then the width's
    for option in options:
        if isinstance(option, list):
            given.append([1.0, option[axis]])
        elif isinstance(option, float):
            given.append(1.0 if len(given) == options.index(alone[0]) else alone[axis])
        else:
            given.append(option)
    with _disable_current_modes():
        pixels = torch.eye(size, dtype=torch.float64).view(1, size, 1, size)
        matrix: list[list[float]] = op(pixels, new, *given).reshape(size, -1).t().tolist()
    return matrix
