"""Exact rewrites of a captured graph, for operations that formats cannot hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def replace_unfold(graph_module: torch.fx.GraphModule) -> int:
    """Write every `Tensor.unfold` as strided slices and one stack, in place.

    halonet and timm's median pool use it. coremltools 9.0 has no translation of it. torch 2.14.1's ONNX exporter has
    a right one; ONNX Runtime is no slower with the slices.

    For every position inside a window, one slice takes that position of all windows; the windows' elements lie along
    the new last dimension, where the slices are stacked. A slice's end is counted from the end of the dimension, so
    nothing needs to be known of its size, which may be symbolic.

    Args:
        graph_module: from `ExportedProgram.module()`. Its new nodes have the scope of the old one and no `val`: export
            it again before a converter sees it.

    Returns:
        How many were replaced. One that has a scalar for input, an empty window or a symbolic size stays as it is.
    """
    import torch

    aten = torch.ops.aten
    count = 0
    for module in graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.find_nodes(op="call_function", target=aten.unfold.default):
            source, dim, size, step = node.args
            value = source.meta.get("val")
            if not isinstance(size, int) or size < 1 or (value is not None and value.ndim == 0):
                continue
            with module.graph.inserting_before(node):
                slices = [
                    module.graph.call_function(
                        aten.slice.Tensor, (source, dim, first, first - size + 1 or None, step)
                    )
                    for first in range(size)
                ]
                stack = module.graph.call_function(aten.stack.default, (slices, -1))
            for new in (*slices, stack):
                new.meta = {
                    key: value
                    for key, value in node.meta.items()
                    if key in ("nn_module_stack", "stack_trace")
                }
            node.replace_all_uses_with(stack)
            module.graph.erase_node(node)
            count += 1
        module.graph.lint()
        module.recompile()
    return count
