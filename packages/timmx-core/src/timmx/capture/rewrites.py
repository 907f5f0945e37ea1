"""Exact rewrites of a captured graph, for operations that formats lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def replace_unfold(graph_module: torch.fx.GraphModule) -> int:
    """Replace every `Tensor.unfold` by slices and one stack, in place.

    halonet and timm's median pool use it, and coremltools 9.0 cannot convert it. (torch 2.14.1's ONNX exporter can.)

    Args:
        graph_module: from `ExportedProgram.module()`. Sizes may be symbolic. Only the last new node of each
            rewrite has a `val`: export the module again before conversion. All have the old node's scope, which the
            new export keeps.

    Returns:
        Number of replaced nodes. Those of a scalar, with an empty window or with a symbolic size are not replaced.
    """
    import torch

    count = 0
    for module in graph_module.modules():
        if not isinstance(module, torch.fx.GraphModule):
            continue
        for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.unfold.default):
            if _replaceable(node):
                _replace(module.graph, node)
                count += 1
        module.graph.lint()
        module.recompile()
    return count


def fold_constants(graph_module: torch.fx.GraphModule) -> None:
    """Replace operations that do not depend on the input by constants, in place.

    torch 2.14.1's own `constant_fold` skips what starts from `arange` or `zeros`: gemma4_vit's position embedding,
    looked up with a one-hot matrix of 2304 x 10240, or xcit's, made of sines and cosines. If a program writes into
    such a tensor, as into `zeros` that are filled, they are not folded.
    """
    from torch._inductor.constant_folding import replace_node_with_constant

    graph = graph_module.graph
    for node, constant in compute_constants(graph_module).items():
        replace_node_with_constant(graph_module, node, constant)
    for node in graph.find_nodes(op="get_attr"):
        if not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph.lint()
    graph_module.recompile()


def compute_constants(graph_module: torch.fx.GraphModule) -> dict[torch.fx.Node, torch.Tensor]:
    """The values of the operations that do not depend on the input, without those that only these operations use."""
    import torch
    from torch._inductor.constant_folding import ConstantFolder

    with torch.utils._python_dispatch._disable_current_modes():
        folder = ConstantFolder(graph_module, skip_constructors=_writes_into_constants(graph_module.graph))
        folder.run()
    return folder.node_replacements


def _writes_into_constants(graph: torch.fx.Graph) -> bool:
    import torch

    varies: set[torch.fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in varies for source in node.all_input_nodes):
            varies.add(node)
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            target = node.args[0]
            if isinstance(target, torch.fx.Node) and target not in varies:
                return True
    return False


def _replaceable(node: torch.fx.Node) -> bool:
    size, step = node.args[2:]
    return isinstance(size, int) and size > 0 and isinstance(step, int) and node.meta["val"].ndim > 1


def _replace(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """One slice per window, or one slice per position inside the windows, whichever takes fewer slices."""
    import torch

    aten = torch.ops.aten
    source, dim, size, step = node.args
    assert isinstance(dim, int)
    assert isinstance(size, int)
    assert isinstance(step, int)
    windows = node.meta["val"]  # (..., number of windows, ..., size)
    dim %= windows.ndim - 1
    number = windows.shape[dim]
    new_nodes: list[torch.fx.Node] = []

    def call(target: torch._ops.OpOverload, *arguments: object) -> torch.fx.Node:
        new_nodes.append(graph.call_function(target, arguments))  # type: ignore[arg-type]
        return new_nodes[-1]

    with graph.inserting_before(node):
        if isinstance(number, int) and number < size:
            starts = range(0, number * step, step)
            stack = call(
                aten.stack.default, [call(aten.slice.Tensor, source, dim, i, i + size) for i in starts], dim
            )
            order = [axis for axis in range(windows.ndim) if axis != dim + 1]
            new = call(aten.permute.default, stack, [*order, dim + 1])
        else:
            # Each slice takes one position of all windows. Its end is counted from the end of the dimension,
            # whose size may be symbolic.
            ends = [(i, i + 1 - size or None) for i in range(size)]
            slices = [call(aten.slice.Tensor, source, dim, start, end, step) for start, end in ends]
            new = call(aten.stack.default, slices, -1)
    for item in new_nodes:
        item.meta = {
            key: value for key, value in node.meta.items() if key in ("nn_module_stack", "stack_trace")
        }
    new.meta["val"] = windows
    node.replace_all_uses_with(new)
    graph.erase_node(node)
