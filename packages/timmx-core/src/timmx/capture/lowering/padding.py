"""Negative padding, which crops, as slices: converters and runtimes have only positive padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


def crop_and_pad(x: torch.Tensor, pad: Sequence[int], value: Any = 0) -> Any:
    """`aten.constant_pad_nd` without negative amounts; NotImplemented if it has none."""
    if all(not isinstance(amount, int) or amount >= 0 for amount in pad):
        return NotImplemented
    for index, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = x.ndim - 1 - index
        x = aten.slice.Tensor(x, dim, max(0, -before), min(0, after) or torch.iinfo(torch.int64).max)
    rest = [max(0, amount) for amount in pad]
    return aten.constant_pad_nd.default(x, rest, value) if any(rest) else x
