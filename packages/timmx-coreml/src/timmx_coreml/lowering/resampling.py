"""Which kinds of interpolation coremltools 9.0 gets as products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import BICUBIC_OR_ANTIALIASED, adaptive_avg_pool2d, resize_by_matmul

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Bicubic and antialiased kinds always, bilinear and nearest where the size is no whole multiple.

    coremltools 9.0 has no bicubic kind; it takes the antialiased bilinear one for the plain one, which differs
    where it shrinks; it refuses factors that lead to a fraction of a pixel. For a size that is no whole multiple it
    hands Core ML a fractional scale, and where Core ML samples then is documented nowhere: products are certain.
    It needs the batch size for adaptive averages, and slices out every uneven window.
    """
    sometimes = (
        aten.upsample_bilinear2d.vec,
        aten.upsample_bilinear2d.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest2d.default,
        aten._upsample_nearest_exact2d.vec,
        aten._upsample_nearest_exact2d.default,
    )
    return (
        {op: resize_by_matmul(op) for op in BICUBIC_OR_ANTIALIASED}
        | {op: _products_unless_multiple(op) for op in sometimes}
        | {aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d}
    )


def _products_unless_multiple(op: torch._ops.OpOverload) -> Callable[..., Any]:
    by_products = resize_by_matmul(op)

    def function(x: torch.Tensor, output_size: list[int] | None, *options: Any) -> Any:
        factors = [scale for option in options if isinstance(option, list) for scale in option]
        if output_size is not None:
            multiple = all(
                isinstance(new, int) and isinstance(old, int) and new % old == 0
                for new, old in zip(output_size, x.shape[-2:], strict=True)
            )
        else:
            multiple = all(factor == int(factor) for factor in factors)
        return NotImplemented if multiple else by_products(x, output_size, *options)

    return function
