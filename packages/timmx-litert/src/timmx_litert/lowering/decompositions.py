"""The operations that are rewritten, each as a function of plain torch code, traced by `run_decompositions`.

A function returns NotImplemented where litert-torch 0.10 needs no rewrite: the operation then stays.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from timmx.plugin import (
    BICUBIC_OR_ANTIALIASED,
    adaptive_avg_pool2d,
    attention_on_four_axes,
    crop_padding,
    im2col,
    rank_decompositions,
    resize_by_matmul,
    traced_constant,
)

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten

RANK_LIMIT = 4
"""The maximum rank that the GPU delegates support."""


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operation to function, for `ExportedProgram.run_decompositions`."""
    table = rank_decompositions(RANK_LIMIT)
    return (
        table
        | {op: resize_by_matmul(op) for op in BICUBIC_OR_ANTIALIASED}
        | {op: _nearest(op) for op in (aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default)}
        | {op: _bilinear(op) for op in (aten.upsample_bilinear2d.vec, aten.upsample_bilinear2d.default)}
        | {
            aten.adaptive_avg_pool2d.default: adaptive_avg_pool2d,
            aten.matmul.default: _matmul(table[aten.matmul.default]),
            aten.mean.dim: _mean,
            aten.im2col.default: im2col,
            aten.col2im.default: _fold,
            aten.scaled_dot_product_attention.default: _scaled_dot_product_attention,
            aten._native_batch_norm_legit_no_training.default: _batch_norm,
        }
    )


_MOST_SUMMED = 1024
"""Of the pixels of a map in one sum."""


def _mean(
    x: torch.Tensor, dim: list[int] | None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Any:
    """The mean of a large map in two steps.

    LiteRT adds the pixels of a channel one after the other: of 112 x 112 pixels, the error of the mean is 30 times that
    of PyTorch, which adds them in parts.
    """
    if x.ndim != 4 or dtype is not None or {axis % 4 for axis in dim or ()} != {2, 3}:
        return NotImplemented
    height, width = (_middle_divisor(size) for size in x.shape[2:])
    if x.shape[2] * x.shape[3] <= _MOST_SUMMED or height * width == 1:
        return NotImplemented
    return torch.mean(F.avg_pool2d(x, (height, width)), dim, keepdim)


def _middle_divisor(size: int) -> int:
    """The largest divisor up to the square root."""
    return next(number for number in range(math.isqrt(size), 0, -1) if size % number == 0)


def _matmul(other: Callable[..., Any]) -> Callable[..., Any]:
    """Avoid two forms of matrix products that litert-torch 0.10 converts wrongly.

    It confuses the dimensions of a product of two transposes that is itself transposed (efficientvim), and those of two
    consecutive products of rank 2 (csatv2).
    """

    def function(x: torch.Tensor, y: torch.Tensor) -> Any:
        if min(x.ndim, y.ndim) < 2:
            return NotImplemented
        if x.ndim == y.ndim == 2:
            return torch.matmul(x.unsqueeze(0), y.unsqueeze(0)).squeeze(0)
        if _is_transpose(x) and _is_transpose(y):
            return torch.matmul(y.transpose(-1, -2), x.transpose(-1, -2)).transpose(-1, -2)
        return other(x, y)

    return function


def _is_transpose(x: torch.Tensor) -> bool:
    return x.stride(-2) == 1 and x.stride(-1) != 1 and min(x.shape[-2:]) > 1


def _nearest(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """Nearest-neighbor interpolation that does not repeat each pixel a number of times, as two matrix products.

    litert-torch 0.10 writes a RESIZE_NEAREST_NEIGHBOR that takes the pixels' centers, which PyTorch does only in
    `nearest-exact`. The two differ unless the new size is a multiple of the old one (ghostnetv3: 3 pixels to 7).
    """
    by_matmul = resize_by_matmul(op)

    def function(x: torch.Tensor, output_size: list[int] | None, *scales: Any) -> Any:
        factors = _factors(x, output_size, scales)
        if factors is not None and all(factor.is_integer() for factor in factors):
            return NotImplemented
        return by_matmul(x, output_size, *scales)

    return function


def _bilinear(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """Bilinear interpolation by factors that are not the ratios of the sizes, as two matrix products.

    litert-torch 0.10 drops the factors: 7 pixels enlarged by 1.5 are 10 pixels, and it takes 10 / 7 as the factor.
    """
    by_matmul = resize_by_matmul(op)

    def function(x: torch.Tensor, output_size: list[int] | None, align_corners: bool, *scales: Any) -> Any:
        if align_corners or _factors(x, output_size, scales) is not None:
            return NotImplemented
        return by_matmul(x, output_size, align_corners, *scales)

    return function


def _factors(
    x: torch.Tensor, output_size: list[int] | None, scales: tuple[Any, ...]
) -> tuple[float, float] | None:
    """The factors of an interpolation by height and width; None if they are not the ratios of the sizes.

    Args:
        scales: of height and width, as one list or as two numbers; None if only the sizes count.
    """
    given = scales[0] if len(scales) == 1 and scales[0] is not None else scales
    given = [scale for scale in given if scale is not None]
    old = x.shape[-2:]
    new = output_size or [int(size * scale) for size, scale in zip(old, given, strict=True)]
    if any(size * scale != after for size, scale, after in zip(old, given, new, strict=False)):
        return None
    return new[0] / old[0], new[1] / old[1]


def _scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention in elementary operations, with the queries that share a key as rows of one matrix.

    litert-torch 0.10 repeats a key that several heads share, and then multiplies by the wrong ones (mobilenetv5, at any
    precision); torch's own decomposition scales the key too.
    """
    lead = query.shape[:-2]
    if len(lead) != 2 and (attn_mask is None or attn_mask.ndim == 2):
        return attention_on_four_axes(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    if dropout_p or len(lead) != 2 or key.ndim != 4 or key.shape[0] != lead[0]:
        return NotImplemented
    if attn_mask is not None and attn_mask.ndim < 2:
        return NotImplemented
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    query = query * (size**-0.5 if scale is None else scale)
    shared = groups != heads
    if shared:
        query = query.reshape(batch, groups, heads // groups * length, size)
    scores = torch.matmul(query, key.transpose(-1, -2))
    if shared and (is_causal or attn_mask is not None):
        scores = scores.reshape(batch, heads, length, key.shape[2])
    if is_causal:
        above = [
            [float("-inf") if column > row else 0.0 for column in range(key.shape[2])]
            for row in range(length)
        ]
        scores = scores + traced_constant(above, scores)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            zero, never = (traced_constant([number], scores) for number in (0.0, float("-inf")))
            attn_mask = torch.where(attn_mask, zero, never)
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    if shared:
        weights = weights.reshape(batch, groups, heads // groups * length, key.shape[2])
    return torch.matmul(weights, value).reshape(batch, heads, length, value.shape[-1])


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    variance: torch.Tensor,
    momentum: float,
    eps: float,
) -> Any:
    """Batch norm as one factor and one term per channel; for images a depthwise convolution, one pass in XNNPACK.

    litert-torch 0.10 writes a subtraction, two products and a sum, and rounds after each.
    """
    factor = (variance.double() + eps).rsqrt()
    if weight is not None:
        factor = factor * weight.double()
    term = -mean.double() * factor
    if bias is not None:
        term = term + bias.double()
    factor, term = factor.to(x.dtype), term.to(x.dtype)
    nothing = x.new_empty((0,))
    if x.ndim == 4:
        return F.conv2d(x, factor.reshape(-1, 1, 1, 1), term, groups=x.shape[1]), nothing, nothing
    shape = [1, -1, *[1] * (x.ndim - 2)]
    return x * factor.reshape(shape) + term.reshape(shape), nothing, nothing


def _fold(
    x: torch.Tensor,
    size: list[int],
    kernel: list[int],
    dilation: list[int],
    padding: list[int],
    stride: list[int],
) -> Any:
    """`fold` as sums of shifted maps, one sum per offset within the stride, interleaved by a pixel shuffle.

    torch decomposes it to an accumulating `index_put`, which litert-torch 0.10 lacks; TFLite has no grouped
    deconvolution.
    """
    if dilation != [1, 1] or any(step > edge for step, edge in zip(stride, kernel, strict=True)):
        return NotImplemented
    rows, columns = ((size[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2))
    reach = [-(-kernel[i] // stride[i]) for i in range(2)]  # the most windows that contain one pixel
    channels = x.shape[1] // (kernel[0] * kernel[1])
    maps = x.reshape(x.shape[0] * channels, kernel[0] * kernel[1], rows, columns)
    phases = []
    for row, column in itertools.product(range(stride[0]), range(stride[1])):
        parts = []
        for down, right in itertools.product(range(reach[0]), range(reach[1])):
            place = (row + down * stride[0], column + right * stride[1])
            if place[0] < kernel[0] and place[1] < kernel[1]:
                part = maps.narrow(1, place[0] * kernel[1] + place[1], 1)
                parts.append(F.pad(part, (right, reach[1] - 1 - right, down, reach[0] - 1 - down)))
        phases.append(sum(parts[1:], parts[0]))
    high, wide = rows + reach[0] - 1, columns + reach[1] - 1
    whole = torch.cat(phases, 1).reshape(x.shape[0] * channels, *stride, high, wide).permute(0, 3, 1, 4, 2)
    whole = whole.reshape(x.shape[0], channels, high * stride[0], wide * stride[1])
    return crop_padding(whole, size, padding)
