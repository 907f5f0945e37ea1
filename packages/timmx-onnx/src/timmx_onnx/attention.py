"""Attention with other than four axes, as in nest and hiera, reshaped to four: PyTorch's exporter takes no others."""

from __future__ import annotations

import torch
from timmx.plugin import attention_on_four_axes, decompose

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
        return decompose(program, {_ATTENTION: attention_on_four_axes})


def _query(node: torch.fx.Node) -> torch.fx.Node:
    query = node.args[0]
    assert isinstance(query, torch.fx.Node)
    return query
