"""The operations that are rewritten, each as a function in plain torch, traced by `run_decompositions`.

A function returns NotImplemented if coremltools 9.0 converts the operation correctly; the operation then stays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError, col2im, crop_and_pad, im2col, rank_decompositions

from timmx_coreml.lowering import arithmetic, resampling

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten

RANK_LIMIT = 5
"""The maximum rank of a Core ML tensor (checked in coremltools 9.0's `mil/program.py`)."""


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the functions by operation, for `ExportedProgram.run_decompositions`."""
    table = arithmetic.decompositions()
    table |= rank_decompositions(RANK_LIMIT)
    table |= resampling.decompositions()
    table |= {
        # coremltools 9.0 folds only windows that do not overlap (volo's do), and unfolds with an index per element,
        # which needs a fixed batch size.
        aten.im2col.default: im2col,
        aten.col2im.default: col2im,
        aten.add.Tensor: _before(table, aten.add.Tensor, _add),
        aten.sub.Tensor: _before(table, aten.sub.Tensor, _sub),
        aten.rsub.Scalar: _rsub,
        aten.rsub.Tensor: _rsub,
        aten.gelu.default: _before(table, aten.gelu.default, _gelu),
        aten.roll.default: _roll,
        aten.rms_norm.default: _rms_norm,
        aten.group_norm.default: _group_norm,
        aten.clamp.default: _before(table, aten.clamp.default, _clamp),
        aten.constant_pad_nd.default: crop_and_pad,
        aten.pad.default: _pad,
        aten.scaled_dot_product_attention.default: _scaled_dot_product_attention,
    }
    return table


def _before(table: dict[Any, Callable[..., Any]], op: Any, first: Callable[..., Any]) -> Callable[..., Any]:
    """Try `first`; if it returns NotImplemented, use the table's function."""
    second = table.get(op)

    def both(*args: Any, **kwargs: Any) -> Any:
        result = first(*args, **kwargs)
        if result is NotImplemented and second is not None:
            return second(*args, **kwargs)
        return result

    return both


def _add(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """Multiply by `alpha`; coremltools 9.0 ignores the keyword."""
    return NotImplemented if alpha == 1 else x + y * alpha


def _sub(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    return NotImplemented if alpha == 1 else x - y * alpha


def _rsub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return NotImplemented if alpha == 1 else y - x * alpha


def _gelu(x: torch.Tensor, *, approximate: str = "none") -> Any:
    """Write out the tanh approximation; coremltools 9.0 ignores the keyword and computes the exact GELU.

    Its pass `fuse_gelu_tanh_approximation` fuses this form into one operation.
    """
    if approximate == "none":
        return NotImplemented
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))
    return x * (0.5 * (1 + torch.tanh(inner)))


def _clamp(x: torch.Tensor, low: Any = None, high: Any = None) -> Any:
    """Clamp integers with two bounds: with one, coremltools 9.0 converts them to floats (gemma4_vit's integers)."""
    if x.is_floating_point() or (low is not None and high is not None):
        return NotImplemented
    return aten.clamp.default(x, -(2**31) if low is None else low, 2**31 - 1 if high is None else high)


def _roll(x: torch.Tensor, shifts: list[int], dims: list[int] | tuple[()] = ()) -> Any:
    """Concatenate slices; coremltools 9.0 gathers with an index per row (swin's shifted windows)."""
    if not dims or not all(isinstance(x.shape[dim], int) for dim in dims):
        return NotImplemented
    moves = [
        (shift % x.shape[dim], dim) for shift, dim in zip(shifts, dims, strict=True) if shift % x.shape[dim]
    ]
    for first, dim in moves:
        start = x.shape[dim] - first
        x = torch.cat((x.narrow(dim, start, first), x.narrow(dim, 0, start)), dim)
    return x if moves else NotImplemented


def _rms_norm(
    x: torch.Tensor, normalized_shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    """Use the layer norm of (x, -x), whose mean is zero and whose variance is the mean square of x.

    coremltools 9.0 divides by the largest value first and adds `eps` to the square of the quotient, which is a
    different function, and 0/0 for zeros. The layer norm is exact, and its sums do not overflow in float16.
    """
    size = normalized_shape[-1]
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    if len(normalized_shape) > 1:
        raise UnsupportedError(
            "timmx coreml cannot convert rms_norm over more than one dimension",
            hint="use timmx onnx, which supports it",
        )
    normed = torch.nn.functional.layer_norm(torch.cat((x, -x), -1), [2 * size], eps=eps)
    normed = normed.narrow(-1, 0, size)
    return normed if weight is None else normed * weight


def _group_norm(
    x: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> torch.Tensor:
    """Use a layer norm over each group, then scale and shift.

    coremltools 9.0 writes out the variance, and the squares of values above 255 overflow float16.
    """
    batch, channels, *rest = x.shape
    size = channels // groups * math.prod(rest)
    normed = torch.nn.functional.layer_norm(x.reshape(batch, groups, size), [size], eps=eps).reshape(x.shape)
    shape = (1, channels, *[1] * len(rest))
    if weight is not None:
        normed = normed * weight.reshape(shape)
    return normed if bias is None else normed + bias.reshape(shape)


def _pad(x: torch.Tensor, pad: list[int], mode: str = "constant", value: Any = None) -> Any:
    if mode == "circular":
        if min(pad) < 0:
            raise UnsupportedError(
                "timmx coreml cannot convert a circular pad by a negative amount",
                hint="use timmx onnx, which supports it",
            )
        return _circular_pad(x, pad)
    if mode != "constant":
        return NotImplemented
    return aten.constant_pad_nd.default(x, pad, value or 0)


def _circular_pad(x: torch.Tensor, pad: list[int]) -> torch.Tensor:
    """Concatenate slices; Core ML has no circular padding."""
    for index, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = x.ndim - 1 - index
        size = x.shape[dim]
        parts = [x.narrow(dim, size - before, before), x, x.narrow(dim, 0, after)]
        x = torch.cat([part for part in parts if part.shape[dim]], dim)
    return x


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
    """Move a non-standard scale into the query: coremltools 9.0 decomposes attention that has a scale."""
    if enable_gqa:  # coremltools 9.0 ignores it
        key, value = (_repeat_heads(part, query.shape[-3]) for part in (key, value))
    elif scale is None:
        return NotImplemented
    standard = query.shape[-1] ** -0.5
    if scale is not None and not math.isclose(scale, standard, rel_tol=1e-6):
        query = query * (scale / standard)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal
    )


def _repeat_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    *batch, key_heads, length, size = x.shape
    return (
        x.unsqueeze(-3)
        .expand(*batch, key_heads, heads // key_heads, length, size)
        .reshape(*batch, heads, length, size)
    )
