"""The operations that are rewritten, each as a function of plain torch code, traced by `run_decompositions`.

They become operations that ExecuTorch has and, as far as possible, that XNNPACK computes (executorch 1.5). A function
returns NotImplemented where no rewrite is needed: the operation then stays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name
from timmx.plugin import (
    BICUBIC_OR_ANTIALIASED,
    col2im,
    crop_and_pad,
    im2col,
    resize_by_matmul,
    traced_constant,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Operation to function, for `ExportedProgram.run_decompositions`."""
    return {op: resize_by_matmul(op) for op in BICUBIC_OR_ANTIALIASED} | {
        aten.im2col.default: im2col,
        aten.col2im.default: col2im,
        aten.scaled_dot_product_attention.default: _attention,
        aten.matmul.default: _matmul,
        aten.softmax.int: _softmax,
        aten.hardsigmoid.default: _hardsigmoid,
        aten.silu.default: _silu,
        aten.gelu.default: _gelu,
        aten.pad.default: _pad,
        aten.constant_pad_nd.default: crop_and_pad,
        aten.conv2d.padding: _padded_conv2d,
        aten.avg_pool2d.default: _avg_pool2d,
        aten.mean.dim: _mean,
        aten.roll.default: _roll,
        aten.unbind.int: _unbind,
        aten.select.int: _select,
        aten.chunk.default: _chunk,
        aten.split.Tensor: _split,
        aten.split_with_sizes.default: _split_with_sizes,
    }


def _attention(
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
    """Attention as two products of three axes; torch's own has a softmax with eight further operations."""
    if dropout_p or (attn_mask is not None and not attn_mask.is_floating_point()):
        return NotImplemented
    *lead, length, size = query.shape
    if enable_gqa:
        key, value = (_repeat_heads(part, query.shape[-3]) for part in (key, value))
    if key.shape[:-2] != query.shape[:-2]:
        key, value = (part.expand([*lead, *part.shape[-2:]]) for part in (key, value))
    count = key.shape[-2]
    scores = _product(query * (size**-0.5 if scale is None else scale), key.transpose(-1, -2))
    if is_causal:
        above = [[float("-inf") if column > row else 0.0 for column in range(count)] for row in range(length)]
        scores = scores + traced_constant(above, scores)
    if attn_mask is not None:
        scores = scores + attn_mask
    return _product(scores.softmax(-1), value)


def _repeat_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    *batch, key_heads, length, size = x.shape
    repeated = x.unsqueeze(-3).expand(*batch, key_heads, heads // key_heads, length, size)
    return repeated.reshape(*batch, heads, length, size)


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A product of matrices whose other axes are equal."""
    *lead, rows, inner = x.shape
    columns = y.shape[-1]
    count = math.prod(lead)
    product = torch.bmm(x.reshape(count, rows, inner), y.reshape(count, inner, columns))
    return product.reshape(*lead, rows, columns)


def _matmul(x: torch.Tensor, y: torch.Tensor) -> Any:
    """Without the expansions of torch's own decomposition, which copy."""
    if x.ndim < 3 or x.ndim != y.ndim or x.shape[:-2] != y.shape[:-2]:
        return NotImplemented
    return _product(x, y)


def _softmax(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
    """Softmax over the last of four axes, on three: XNNPACK's is over the channels if the tensor is a map."""
    if x.ndim != 4 or dim % 4 != 3 or dtype is not None:
        return NotImplemented
    first, second, *rest = x.shape
    return x.reshape(first * second, *rest).softmax(-1).reshape(x.shape)


def _hardsigmoid(x: torch.Tensor) -> torch.Tensor:
    """torch's own has integer constants, which are converted to floats in each run."""
    return F.relu6(x + 3.0) / 6.0


def _silu(x: torch.Tensor) -> torch.Tensor:
    """torch's own converts half precision to float32 and back."""
    return x * x.sigmoid()


def _gelu(x: torch.Tensor, *, approximate: str = "none") -> Any:
    """XNNPACK computes only GELU itself: executorch 1.5 drops `approximate`, which leaves 77 dB.

    The form stays finite in half precision.
    """
    if approximate != "tanh":
        return NotImplemented
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * x * (1.0 + 0.044715 * x * x)))


def _pad(x: torch.Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """XNNPACK pads by negative amounts, which crop, when it is compiled, but fails when it runs (executorch 1.5)."""
    return crop_and_pad(x, pad, value or 0) if mode == "constant" else NotImplemented


def _padded_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: str = "valid",
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> torch.Tensor:
    """Padding in numbers: the quantizer does not see the padding `same` (pytorch/executorch issue 20517)."""
    around = [
        step * (size - 1) if padding == "same" else 0
        for size, step in zip(weight.shape[-2:], [*dilation, *dilation][:2], strict=True)
    ]
    if any(total % 2 for total in around):  # the larger half follows
        x = F.pad(x, [side for total in reversed(around) for side in (total // 2, total - total // 2)])
        around = [0, 0]
    return F.conv2d(x, weight, bias, stride, [total // 2 for total in around], dilation, groups)


def _avg_pool2d(
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Any:
    """XNNPACK neither rounds sizes up nor counts the padding: do without, if the result is the same."""
    kernel, stride, padding = ([*part, *part][:2] for part in (kernel, stride or kernel, padding))
    if divisor is not None or not (ceil_mode or (count_include_pad and any(padding))):
        return NotImplemented
    free = [size + 2 * pad - window for size, pad, window in zip(x.shape[-2:], padding, kernel, strict=True)]
    if ceil_mode and any(size % step for size, step in zip(free, stride, strict=True)):
        return NotImplemented
    if count_include_pad and any(padding):
        x, padding = F.pad(x, [padding[1], padding[1], padding[0], padding[0]]), [0, 0]
    return F.avg_pool2d(x, kernel, stride, padding, count_include_pad=False)


def _mean(x: torch.Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """XNNPACK computes means over height and width that keep their axes."""
    if x.ndim != 4 or keepdim or dtype is not None or sorted(dim % 4 for dim in dims or ()) != [2, 3]:
        return NotImplemented
    return x.mean([2, 3], keepdim=True).reshape(x.shape[:2])


def _roll(x: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    """Concatenate slices; torch's own gathers rows."""
    if not dims or not all(isinstance(x.shape[dim], int) for dim in dims):
        return NotImplemented
    for shift, dim in zip(shifts, dims, strict=True):
        if first := shift % x.shape[dim]:
            start = x.shape[dim] - first
            x = torch.cat((x.narrow(dim, start, first), x.narrow(dim, 0, start)), dim)
    return x.clone()


def _select(x: torch.Tensor, dim: int, index: int) -> torch.Tensor:
    dim %= x.ndim
    shape = [*x.shape[:dim], *x.shape[dim + 1 :]]
    return x.narrow(dim, index % x.shape[dim], 1).reshape(shape)


def _unbind(x: torch.Tensor, dim: int = 0) -> list[torch.Tensor]:
    return [_select(x, dim, index) for index in range(x.shape[dim])]


def _split_with_sizes(x: torch.Tensor, sizes: Sequence[int], dim: int = 0) -> list[torch.Tensor]:
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [x.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True)]


def _split(x: torch.Tensor, size: int, dim: int = 0) -> Any:
    total = x.shape[dim]
    if not isinstance(total, int):
        return NotImplemented
    return _split_with_sizes(x, [min(size, total - start) for start in range(0, total, size)], dim)


def _chunk(x: torch.Tensor, count: int, dim: int = 0) -> Any:
    total = x.shape[dim]
    return _split(x, -(-total // count), dim) if isinstance(total, int) else NotImplemented
