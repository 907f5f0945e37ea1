"""Finds operations that coremltools cannot convert, before the conversion, and names their layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.plugin import UnsupportedError

from timmx_coreml.errors import OTHER_FORMATS
from timmx_coreml.lowering.decompositions import RANK_LIMIT

if TYPE_CHECKING:
    import torch


def check(program: torch.export.ExportedProgram) -> None:
    """Raise UnsupportedError for the first operation that has no translation, or whose rank is too high."""
    import torch
    from coremltools.converters.mil.frontend.torch.torch_op_registry import _TORCH_OPS_REGISTRY

    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        kind = node.target.name() if isinstance(node.target, torch._ops.OpOverload) else node.target.__name__
        if _TORCH_OPS_REGISTRY.get_func(kind) is None:
            raise UnsupportedError(
                f"coremltools has no translation of {node.target}, {_where(node)}", hint=OTHER_FORMATS
            )
        if node.target is torch.ops.aten.reshape.default and all(user.op != "output" for user in node.users):
            continue  # the operation that reads it is reported
        for source in (node, *node.all_input_nodes):
            value = source.meta.get("val")
            if isinstance(value, torch.Tensor) and value.ndim > RANK_LIMIT:
                raise UnsupportedError(
                    f"Core ML tensors have at most {RANK_LIMIT} dimensions; {node.target}, {_where(node)}, has"
                    f" {value.ndim}: {tuple(value.shape)}",
                    hint=OTHER_FORMATS,
                )


def _where(node: torch.fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return f"node {node.name}"
    path, kind = stack[-1]
    name = kind if isinstance(kind, str) else kind.__name__
    return f"in {path or 'the model'} ({name.rsplit('.', 1)[-1]})"
