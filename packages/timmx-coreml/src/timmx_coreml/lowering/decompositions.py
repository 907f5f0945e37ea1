"""Which operations are rewritten, each as a function of plain torch code, traced by `run_decompositions`.

A function answers NotImplemented where coremltools 9.0 does well as it is: the operation then stays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError, col2im, im2col, rank_decompositions

from timmx_coreml.lowering import arithmetic, resampling

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten

RANK_LIMIT = 5
"""The most dimensions that a Core ML tensor has (checked in coremltools 9.0's `mil/program.py`)."""


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operation to function, for `ExportedProgram.run_decompositions`."""
    table = arithmetic.decompositions()
    table |= rank_decompositions(RANK_LIMIT)
    table |= resampling.decompositions()
    table |= {
        # coremltools 9.0 folds only windows that do not overlap (volo's do), and unfolds by an index for every element
        # of a batch whose size it must know.
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
        aten.constant_pad_nd.default: _constant_pad_nd,
        aten.pad.default: _pad,
        aten.scaled_dot_product_attention.default: _scaled_dot_product_attention,
    }
    return table


def _before(table: dict[Any, Callable[..., Any]], op: Any, first: Callable[..., Any]) -> Callable[..., Any]:
    """Ask `first`, and where it has nothing to say what the table had."""
    second = table.get(op)

    def both(*args: Any, **kwargs: Any) -> Any:
        answer = first(*args, **kwargs)
        if answer is NotImplemented and second is not None:
            return second(*args, **kwargs)
        return answer

    return both


def _add(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    """coremltools 9.0 does not see a keyword `alpha`, and adds the plain `y`."""
    return NotImplemented if alpha == 1 else x + y * alpha


def _sub(x: Any, y: Any, *, alpha: Any = 1) -> Any:
    return NotImplemented if alpha == 1 else x - y * alpha


def _rsub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return NotImplemented if alpha == 1 else y - x * alpha


def _gelu(x: torch.Tensor, *, approximate: str = "none") -> Any:
    """coremltools 9.0 does not see a keyword `approximate`, and computes the exact GELU instead.

    In this form its pass `fuse_gelu_tanh_approximation` makes one operation of it.
    """
    if approximate == "none":
        return NotImplemented
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))
    return x * (0.5 * (1 + torch.tanh(inner)))


def _clamp(x: torch.Tensor, low: Any = None, high: Any = None) -> Any:
    """Of integers with one bound: coremltools 9.0 makes them floats there (gemma4_vit counts with them)."""
    if x.is_floating_point() or (low is not None and high is not None):
        return NotImplemented
    return aten.clamp.default(x, -(2**31) if low is None else low, 2**31 - 1 if high is None else high)


def _roll(x: torch.Tensor, shifts: list[int], dims: list[int] | tuple[()] = ()) -> Any:
    """As slices put together again; coremltools 9.0 gathers by an index for every row (swin's shifted windows)."""
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
    """As the layer norm of (x, -x), whose mean is zero and whose variance is the mean square of x.

    coremltools 9.0 divides by the largest value first and adds `eps` to the square of the quotient, which is another
    function, and 0/0 for zeros. One layer norm is exact, and keeps its sums in range in float16.
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
    """As a layer norm over each group, then scale and shift.

    coremltools 9.0 spells the variance out, and the squares of numbers above 255 leave float16's range.
    """
    batch, channels, *rest = x.shape
    size = channels // groups * math.prod(rest)
    normed = torch.nn.functional.layer_norm(x.reshape(batch, groups, size), [size], eps=eps).reshape(x.shape)
    shape = (1, channels, *[1] * len(rest))
    if weight is not None:
        normed = normed * weight.reshape(shape)
    return normed if bias is None else normed + bias.reshape(shape)


def _constant_pad_nd(x: torch.Tensor, pad: list[int], value: Any = 0) -> Any:
    """A negative pad, which Core ML has not, is a slice."""
    if all(not isinstance(amount, int) or amount >= 0 for amount in pad):
        return NotImplemented
    for index, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = x.ndim - 1 - index
        x = aten.slice.Tensor(x, dim, max(0, -before), min(0, after) or torch.iinfo(torch.int64).max)
    rest = [max(0, amount) for amount in pad]
    return aten.constant_pad_nd.default(x, rest, value) if any(rest) else x


def _pad(x: torch.Tensor, pad: list[int], mode: str = "constant", value: Any = None) -> Any:
    if mode == "circular":
        if min(pad) < 0:
            raise UnsupportedError(
                "timmx coreml cannot convert a circular pad by a negative amount",
                hint="use timmx onnx, which supports it",
            )
        return _wrapped(x, pad)
    if mode != "constant":
        return NotImplemented
    return aten.constant_pad_nd.default(x, pad, value or 0)


def _wrapped(x: torch.Tensor, pad: list[int]) -> torch.Tensor:
    """A circular pad, which Core ML has not, as slices put together."""
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
    """Any scale but the standard one moved into the query: coremltools 9.0 takes attention apart for a scale."""
    if enable_gqa:  # coremltools 9.0 does not see it
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
    *batch, own, length, size = x.shape
    return (
        x.unsqueeze(-3).expand(*batch, own, heads // own, length, size).reshape(*batch, heads, length, size)
    )
