"""Nodes that compute nothing, and shapes that need no computing, taken out of a decomposed program."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

_COPIES = (
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.detach_.default,
    aten.dropout.default,
    aten.lift_fresh_copy.default,
)
"""Operations that return their first argument as it is, seen as numbers."""

_ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)

_VIEWS = (aten.view.default, aten._unsafe_view.default)


def drop_copies(program: torch.export.ExportedProgram) -> None:
    """Take copies and assertions out. (coremltools 9.0 has no `alias`, and writes a copy as an operation.)"""
    graph = program.graph
    inputs = {node for node in graph.nodes if node.op == "placeholder"}
    outputs = set(graph.output_node().all_input_nodes)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _COPIES and not _is_training_dropout(node):
            source = node.args[0]
            if node in outputs:
                if source in inputs or source in outputs:
                    continue  # an output needs a value of its own
                outputs.discard(node)
                outputs.add(source)
                for spec in program.graph_signature.output_specs:
                    if spec.arg.name == node.name:
                        spec.arg.name = source.name
            node.replace_all_uses_with(source)
            graph.erase_node(node)
        elif not node.users and "assert" in str(node.target):
            graph.erase_node(node)


def use_reshapes(graph: torch.fx.Graph) -> None:
    """Write `view` as `reshape`: without the copies a view may meet strides that it cannot have."""
    for node in graph.nodes:
        if node.target in _VIEWS:
            node.target = aten.reshape.default


def merge_reshapes(graph: torch.fx.Graph) -> None:
    """Of several reshapes in a row only the last one counts, and none that keeps the shape."""
    outputs = set(graph.output_node().all_input_nodes)
    for node in graph.nodes:
        if node.target is aten.reshape.default:
            source = node.args[0]
            while source.target is aten.reshape.default:
                source = source.args[0]
            node.args = (source, *node.args[1:])
            if _shape(source) == _shape(node) and node not in outputs:
                node.replace_all_uses_with(source)
    graph.eliminate_dead_code()


def infer_symbolic_sizes(graph: torch.fx.Graph) -> None:
    """Write -1 for the one symbolic size of a reshape, so that nothing must be computed for it."""
    for node in graph.nodes:
        if node.target is not aten.reshape.default:
            continue
        shape: list[Any] = list(node.args[1])
        for index, size in enumerate(node.meta["val"].shape):
            if isinstance(size, int):
                shape[index] = size
        symbolic = [index for index, size in enumerate(shape) if not isinstance(size, int) or size == -1]
        if len(symbolic) == 1:
            shape[symbolic[0]] = -1
        node.args = (node.args[0], shape)


def drop_expands(graph: torch.fx.Graph) -> None:
    """Take out expansions to the shape of the other operand, in arithmetic that broadcasts by itself.

    (coremltools 9.0 writes them as `tile`, with six operations more for the counts where the batch is open.)
    """
    for node in list(graph.nodes):
        if node.target is not aten.expand.default:
            continue
        for user in list(node.users):
            if user.target not in _ARITHMETIC:
                continue
            others = [one for one in user.args[:2] if one is not node]
            if (
                len(others) == 1
                and isinstance(others[0], torch.fx.Node)
                and _shape(others[0]) == _shape(node)
            ):
                user.replace_input_with(node, node.args[0])
    graph.eliminate_dead_code()


def _shape(node: torch.fx.Node) -> list[str]:
    """In words: to compare symbolic sizes themselves could tie the program to the answer."""
    value = node.meta.get("val")
    return [str(size) for size in value.shape] if isinstance(value, torch.Tensor) else [node.name]


def _is_training_dropout(node: torch.fx.Node) -> bool:
    return node.target is aten.dropout.default and bool(node.args[2])
