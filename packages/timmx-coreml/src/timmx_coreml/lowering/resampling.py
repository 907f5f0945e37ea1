"""Interpolation as two matrix products, for the kinds that coremltools 9.0 lacks or gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Bicubic and antialiased kinds always, bilinear and nearest where the size is no whole multiple.

    coremltools 9.0 has no bicubic kind; it takes the antialiased bilinear one for the plain one, which differs
    where it shrinks; and to reach a size that is no whole multiple it scales by (size + 0.0001) / input size, which
    shifts the samples.
    """
    always = (
        aten.upsample_bicubic2d.vec,
        aten.upsample_bicubic2d.default,
        aten._upsample_bicubic2d_aa.vec,
        aten._upsample_bicubic2d_aa.default,
        aten._upsample_bilinear2d_aa.vec,
        aten._upsample_bilinear2d_aa.default,
    )
    sometimes = (
        aten.upsample_bilinear2d.vec,
        aten.upsample_bilinear2d.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest2d.default,
        aten._upsample_nearest_exact2d.vec,
        aten._upsample_nearest_exact2d.default,
    )
    return {op: _products(op) for op in always} | {op: _products_unless_multiple(op) for op in sometimes}


def _products_unless_multiple(op: torch._ops.OpOverload) -> Callable[..., Any]:
    products = _products(op)

    def function(x: torch.Tensor, output_size: list[int] | None, *options: Any) -> Any:
        factors = [scale for option in options if isinstance(option, list) for scale in option]
        if output_size is not None:
            multiple = all(
                isinstance(new, int) and isinstance(old, int) and new % old == 0
                for new, old in zip(output_size, x.shape[-2:], strict=True)
            )
        else:
            multiple = all(factor == int(factor) for factor in factors)
        return NotImplemented if multiple else products(x, output_size, *options)

    return function


def _products(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """`op` as (rows) @ x @ (columns): exact, since each kind is linear in x and separable."""

    def function(x: torch.Tensor, output_size: list[int] | None, *options: Any) -> Any:
        height, width = x.shape[-2:]
        if not isinstance(height, int) or not isinstance(width, int):
            return NotImplemented
        rows = _matrix(op, height, 0, output_size, options)
        columns = _matrix(op, width, 1, output_size, options)
        return torch.matmul(torch.matmul(_constant(rows, x), x), _constant(columns, x).t())

    return function


def _matrix(
    op: torch._ops.OpOverload, size: int, axis: int, output_size: list[int] | None, options: tuple[Any, ...]
) -> list[list[float]]:
    """(new size, size): what the operation itself, in float64, makes of each pixel alone along one axis.

    The other axis has one pixel and becomes one pixel, which every kind leaves as it is.
    """
    one = [1, 1]
    if output_size is not None:
        one[axis] = output_size[axis]
    given: list[Any] = []
    position = 0  # among scales that stand by themselves: the height's, then the width's
    for option in options:
        if isinstance(option, list):
            given.append([scale if index == axis else 1.0 for index, scale in enumerate(option)])
        elif isinstance(option, float):
            given.append(option if position == axis else 1.0)
            position += 1
        else:
            given.append(option)
    with _disable_current_modes():
        pixels = torch.eye(size, dtype=torch.float64)
        pixels = pixels.view(1, size, size, 1) if axis == 0 else pixels.view(1, size, 1, size)
        answer = op(pixels, None if output_size is None else one, *given)
        matrix: list[list[float]] = answer.reshape(size, -1).t().tolist()
    return matrix


def _constant(values: list[list[float]], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype)
