"""Expansions where litert-torch 0.10 keeps their meaning."""

from __future__ import annotations

import torch

aten = torch.ops.aten


def permute_before_expanding(graph: torch.fx.Graph) -> None:
    """Write a permutation of an expanded tensor as an expansion of the permuted one.

    The other way round litert-torch 0.10 writes a BROADCAST_TO whose shapes do not fit, and no runtime opens the file.
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
        lead = len(shape) - len(sizes)
        with graph.inserting_before(node):
            whole = graph.call_function(aten.reshape.default, (source, [*[1] * lead, *sizes]))
            permuted = graph.call_function(aten.permute.default, (whole, order))
            new = graph.call_function(aten.expand.default, (permuted, list(shape)))
        whole.meta["val"] = source.meta["val"].reshape([*[1] * lead, *sizes])
        permuted.meta["val"] = whole.meta["val"].permute(order)
        new.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(new)
    graph.eliminate_dead_code()
