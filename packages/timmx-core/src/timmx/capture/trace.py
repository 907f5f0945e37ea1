"""torch.export of a prepared model, with its constants folded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.base import reporter
from timmx.errors import UnsupportedError

if TYPE_CHECKING:
    import torch


def capture(
    module: torch.nn.Module, example: torch.Tensor, *, dynamic: bool, strict: bool = False
) -> torch.export.ExportedProgram:
    """Trace `module` with torch.export and fold constants.

    Folding is not only for speed: a position embedding that is resized in the graph (`test_vit`'s antialiased
    bicubic one) becomes a constant that every format supports.

    Args:
        module: in eval mode; one input named `input`.
        example: (N, C, H, W); N must be 2 or more if `dynamic`, since torch.export treats 1 as a constant.
        dynamic: make N dynamic, from 1. (`Dim.DYNAMIC` would record [2, inf), which some formats enforce.)
        strict: trace with TorchDynamo, which refuses Python side effects.

    Raises:
        UnsupportedError: torch.export cannot trace this model.
    """
    program = _trace(module, example, dynamic, strict)
    graph_module = program.module()
    if not _simplify(graph_module):
        return program
    return _trace(graph_module, example, dynamic, strict=False)


def _trace(
    module: torch.nn.Module, example: torch.Tensor, dynamic: bool, strict: bool
) -> torch.export.ExportedProgram:
    import torch

    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    try:
        with torch.no_grad():
            return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=strict)
    # torch.export raises some thirty types, RuntimeError and AssertionError among them
    except Exception as exc:
        ways = ["--batch-size instead of --dynamic-batch"] * dynamic + ["a run without --strict"] * strict
        hint = f"try {' or '.join(ways)}" if ways else ""
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0].rstrip(".")
        raise UnsupportedError(f"torch.export cannot trace this model: {reason}", hint=hint) from exc


def _simplify(graph_module: torch.fx.GraphModule) -> bool:
    """Rewrite the graph exactly, in place; returns whether it must be traced again."""
    from timmx.capture.rewrites import fold_constants, replace_unfold

    unfolds = replace_unfold(graph_module)
    if unfolds:
        reporter().detail(f"Rewrote {unfolds} Tensor.unfold as slices.")
    before = _calls(graph_module)
    fold_constants(graph_module)
    remaining = {node.name for node in _calls(graph_module)}
    # A view of a parameter costs nothing at run time; retracing a ViT for its class token's `expand` costs 0.8 s.
    folded = [
        node for node in before if node.name not in remaining and not getattr(node.target, "is_view", False)
    ]
    if folded:
        reporter().detail(f"Folded {len(folded)} of {len(before)} operations into constants.")
    return bool(unfolds or folded)


def _calls(graph_module: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for node in graph_module.graph.nodes if node.op == "call_function"]
