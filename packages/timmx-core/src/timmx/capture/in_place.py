"""The graph of a captured program without operations in place."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch.export.graph_signature import InputKind, OutputKind

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import Graph, Node

aten = torch.ops.aten

_NEW_TENSORS = {
    aten.conv2d.default,
    aten.linear.default,
    aten.matmul.default,
    aten.batch_norm.default,
    aten.layer_norm.default,
    aten.group_norm.default,
    aten.max_pool2d.default,
}
"""Composite operations that always return a new tensor; `reshape` and others may return a view."""


class Unsuitable(Exception):  # noqa: N818 - it is not an error
    """The program has something that only torch's own decomposition handles."""


def functional_graph(program: ExportedProgram) -> Graph:
    """The program's graph, or a copy without operations in place.

    Raises:
        Unsuitable: an operation in place changes a tensor that has another name, or a shape is dynamic.
    """
    signature = program.graph_signature
    kinds = {InputKind.USER_INPUT, InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR}
    if any(spec.kind not in kinds for spec in signature.input_specs) or any(
        spec.kind is not OutputKind.USER_OUTPUT for spec in signature.output_specs
    ):
        raise Unsuitable
    graph = program.graph
    in_place = []
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module", "call_method"):
            raise Unsuitable
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise Unsuitable
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            in_place.append(node)
    if not in_place:
        return graph
    copied, nodes = torch.fx.Graph(), dict[Any, Any]()
    copied.output(copied.graph_copy(graph, nodes))
    copied.output_node().meta = dict(graph.output_node().meta)
    for node in in_place:
        _out_of_place(nodes[node])
    copied.lint()
    return copied


def _out_of_place(node: Any) -> None:
    """Replace an operation that changes its first argument by the one that returns a new tensor.

    Raises:
        Unsuitable: the tensor that it changes may have another name, as a view has.
    """
    source = node.args[0]
    if node.target is aten.detach_.default:
        node.replace_all_uses_with(source)
        node.graph.erase_node(node)
        return
    schema = node.target._schema
    written = [
        argument for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write
    ]
    name = schema.name.removeprefix("aten::")
    overload = getattr(getattr(aten, name.removesuffix("_"), None), node.target._overloadname, None)
    if (
        not schema.name.startswith("aten::")
        or not name.endswith("_")
        or overload is None
        or len(written) != 1
        or written[0].name != schema.arguments[0].name
        or not isinstance(source, torch.fx.Node)
        or source.op != "call_function"
        or _returns_alias(source)
    ):
        raise Unsuitable
    node.target = overload
    earlier = set(itertools.takewhile(lambda other: other is not node, source.graph.nodes))
    for user in list(source.users):
        if user in earlier:
            if _returns_alias(user):
                raise Unsuitable
        elif user is not node:
            user.replace_input_with(source, node)


def _returns_alias(node: Node) -> bool:
    """Whether an operation may return a view of an argument, or part of one."""
    if node.op == "output":
        return False
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target._can_decompose():
        return target not in _NEW_TENSORS
    return any(result.alias_info for result in target._schema.returns) and not target._schema.is_mutable
