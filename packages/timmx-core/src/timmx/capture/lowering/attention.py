"""Attention with other than four axes, as in nest and hiera, reshaped to four: converters take no others."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name


def attention_on_four_axes(
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
    """A decomposition of scaled dot-product attention: (..., length, size) as (N, heads, length, size).

    Returns:
        The answer in the shape of the query; NotImplemented if it has four axes, or keys that several queries share.
    """
    lead = query.shape[:-2]
    if len(lead) == 2 or lead != key.shape[:-2] or lead != value.shape[:-2]:
        return NotImplemented
    four = [math.prod(lead[:-1]), math.prod(lead[-1:])]
    q, k, v = (part.reshape([*four, *part.shape[-2:]]) for part in (query, key, value))
    if attn_mask is not None and attn_mask.ndim > 2:
        attn_mask = attn_mask.expand([*lead, *attn_mask.shape[-2:]])
        attn_mask = attn_mask.reshape([*four, *attn_mask.shape[-2:]])
    answer = F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)
    return answer.reshape([*lead, *answer.shape[-2:]])
