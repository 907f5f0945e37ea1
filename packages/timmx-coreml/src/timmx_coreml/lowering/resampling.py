"""The interpolations that are rewritten as matrix products for coremltools 9.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import BICUBIC_OR_ANTIALIASED, adaptive_avg_pool2d, resize_by_matmul

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Rewrite bicubic and antialiased interpolation, and bilinear and nearest unless sizes are integer multiples.

    coremltools 9.0 has no bicubic interpolation. It converts antialiased bilinear to plain bilinear, which differs
    when an image shrinks, and refuses factors that lead to a fraction of a pixel. For sizes that are not integer
    multiples it writes a fractional scale, for which Core ML's sampling positions are not documented. For adaptive
    averages it needs a fixed batch size, and it slices every uneven window.
    """
    conditional = (
        aten.upsample_bilinear2d.vec,
        aten.upsample_bilinear2d.default,
        aten.upsample_nearest2d.vec,
        aten.upsample_nearest2d.default,
        aten._upsample_nearest_exact2d.vec,
        aten._upsample_nearest_exact2d.default,
    )
    return (
        {op: resize_by_matmul(op) for op in BICUBIC_OR_ANTIALIASED}
        | {op: _unless_multiple(op) for op in conditional}
        | {aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d}
    )


def _unless_multiple(op: torch._ops.OpOverload) -> Callable[..., Any]:
    resize = resize_by_matmul(op)

    def function(x: torch.Tensor, output_size: list[int] | None, *options: Any) -> Any:
        factors = [scale for option in options if isinstance(option, list) for scale in option]
        if output_size is not None:
            multiple = all(
                isinstance(new, int) and isinstance(old, int) and new % old == 0
                for new, old in zip(output_size, x.shape[-2:], strict=True)
            )
        else:
            multiple = all(factor == int(factor) for factor in factors)
        return NotImplemented if multiple else resize(x, output_size, *options)

    return function
