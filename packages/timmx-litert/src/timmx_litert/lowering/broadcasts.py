"""Moves expansions to places where litert-torch 0.10 converts them correctly."""

from __future__ import annotations

import torch

aten = torch.ops.aten


def permute_before_expanding(graph: torch.fx.Graph) -> None:
    """Replace a permutation of an expanded tensor by an expansion of the permuted tensor.

    For the original order litert-torch 0.10 writes a BROADCAST_TO with wrong shapes, and no runtime opens the file.
    """
    for node in graph.nodes:
        if node.target not in (aten.permute.default, aten.transpose.int):
            continue
        expand = node.args[0]
        if expand.target is not aten.expand.default:
            continue
        order = list(range(node.meta["val"].ndim))
        if node.target is aten.permute.default:
            order = [order[dim] for dim in node.args[1]]
        else:
            first, second = node.args[1:]
            order[first], order[second] = order[second], order[first]
        source = expand.args[0]
        sizes, shape = source.meta["val"].shape, node.meta["val"].shape
        leading = len(shape) - len(sizes)
        with graph.inserting_before(node):
            reshaped = graph.call_function(aten.reshape.default, (source, [*[1] * leading, *sizes]))
            permuted = graph.call_function(aten.permute.default, (reshaped, order))
            new = graph.call_function(aten.expand.default, (permuted, list(shape)))
        reshaped.meta["val"] = source.meta["val"].reshape([*[1] * leading, *sizes])
        permuted.meta["val"] = reshaped.meta["val"].permute(order)
        new.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(new)
    graph.eliminate_dead_code()
