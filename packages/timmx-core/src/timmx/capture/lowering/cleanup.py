"""Removes copies, redundant reshapes and computed shapes from a decomposed program."""

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
"""Operations that return the values of their first argument."""

_ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)

_VIEWS = (aten.view.default, aten._unsafe_view.default)


def drop_copies(program: torch.export.ExportedProgram) -> None:
    """Remove copies and assertions. (coremltools 9.0 has no `alias`, and writes a copy as an operation.)"""
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
    """Replace `view` by `reshape`: without the copies, a view may get strides that it does not support."""
    for node in graph.nodes:
        if node.target in _VIEWS:
            node.target = aten.reshape.default


def merge_reshapes(graph: torch.fx.Graph) -> None:
    """Merge consecutive reshapes, and remove those that keep the shape."""
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
    """Replace a reshape's only symbolic size by -1, so that it need not be computed."""
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
    """Remove expansions to the other operand's shape, in arithmetic that broadcasts anyway.

    (coremltools 9.0 writes them as `tile`, with six more operations for the counts if the batch size is dynamic.)
    """
    for node in list(graph.nodes):
        if node.target is not aten.expand.default:
            continue
        for user in list(node.users):
            if user.target not in _ARITHMETIC:
                continue
            others = [operand for operand in user.args[:2] if operand is not node]
            if (
                len(others) == 1
                and isinstance(others[0], torch.fx.Node)
                and _shape(others[0]) == _shape(node)
            ):
                user.replace_input_with(node, node.args[0])
    graph.eliminate_dead_code()


def _shape(node: torch.fx.Node) -> list[str]:
    """The shape as text: comparing symbolic sizes could add a guard to the program."""
    value = node.meta.get("val")
    return [str(size) for size in value.shape] if isinstance(value, torch.Tensor) else [node.name]


def _is_training_dropout(node: torch.fx.Node) -> bool:
    return node.target is aten.dropout.default and bool(node.args[2])
