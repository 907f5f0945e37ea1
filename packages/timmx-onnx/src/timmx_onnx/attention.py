"""Attention with other than four axes, as in nest and hiera, reshaped to four: PyTorch's exporter takes no others."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def with_four_axes(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program, with attention on (N, heads, length, size) only.

    Returns:
        The same program if all its attention has four axes.
    """
    nodes = program.graph.find_nodes(op="call_function", target=_ATTENTION)
    if all(_query(node).meta["val"].ndim == 4 for node in nodes):
        return program
    with torch.no_grad():
        return program.run_decompositions({_ATTENTION: _attention})


def _query(node: torch.fx.Node) -> torch.fx.Node:
    query = node.args[0]
    assert isinstance(query, torch.fx.Node)
    return query


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
