"""Converts a lowered program to half precision, with float32 input and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Collection

aten = torch.ops.aten


def to_half(
    program: torch.export.ExportedProgram, float32: Collection[str] = frozenset()
) -> torch.fx.GraphModule:
    """The program's module in float16.

    Args:
        program: float32; not changed.
        float32: names of nodes that compute in float32.
    """
    module = program.module()
    graph = module.graph
    casts: dict[tuple[torch.fx.Node, torch.dtype], torch.fx.Node] = {}
    dtypes: dict[torch.fx.Node, torch.dtype] = {}

    def cast(source: torch.fx.Node, dtype: torch.dtype) -> torch.fx.Node:
        if dtypes.get(source, dtype) is dtype:
            return source
        if (source, dtype) not in casts:
            if source.op == "get_attr":
                name = f"{str(source.target).replace('.', '_')}_half"
                module.register_buffer(name, _value(module, source).to(dtype))
                with graph.inserting_after(source):
                    casts[source, dtype] = graph.get_attr(name)
            else:
                with graph.inserting_after(source):
                    casts[source, dtype] = graph.call_function(aten.to.dtype, (source, dtype))
        return casts[source, dtype]

    for node in list(graph.nodes):
        if node.op == "output":
            node.args = torch.fx.map_arg(node.args, lambda source: cast(source, torch.float32))
        elif node.op == "call_function" and _is_float(node):
            dtype = torch.float32 if node.name in float32 else torch.float16
            node.args = torch.fx.map_arg(node.args, lambda source: cast(source, dtype))  # noqa: B023 - called at once
            node.kwargs = torch.fx.map_arg(node.kwargs, lambda source: cast(source, dtype))  # noqa: B023
            if node.kwargs.get("dtype") is torch.float32:
                node.kwargs = {**node.kwargs, "dtype": dtype}
            dtypes[node] = dtype
        elif node.op in ("placeholder", "get_attr") and _is_float(node, module):
            dtypes[node] = torch.float32
        elif node.op == "call_function":  # a comparison takes floats and returns none
            node.args = torch.fx.map_arg(node.args, lambda source: cast(source, torch.float32))
    graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _is_float(node: torch.fx.Node, module: torch.nn.Module | None = None) -> bool:
    value: Any = node.meta.get("val")
    if node.op == "get_attr" and module is not None:
        value = _value(module, node)
    if isinstance(value, (list, tuple)):
        value = next((item for item in value if isinstance(item, torch.Tensor)), None)
    return isinstance(value, torch.Tensor) and value.dtype is torch.float32


def _value(module: torch.nn.Module, node: torch.fx.Node) -> torch.Tensor:
    owner, _, name = str(node.target).rpartition(".")
    value: torch.Tensor = getattr(module.get_submodule(owner), name)
    return value
