"""torch.export of a prepared model, with its constants folded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.errors import UnsupportedError
from timmx.progress import reporter

if TYPE_CHECKING:
    import torch


def capture(
    module: torch.nn.Module, example: torch.Tensor, *, dynamic: bool, strict: bool = False
) -> torch.export.ExportedProgram:
    """Trace `module` and fold what does not depend on its input.

    Folding matters beyond speed: a position embedding that is resized in the graph (`test_vit`'s antialiased
    bicubic one) becomes a constant that every format can hold.

    Args:
        module: in eval mode; one input called `input`.
        example: (N, C, H, W); N must be 2 or more where `dynamic`, since torch.export takes 1 for a constant.
        dynamic: leave N open, from 1 up. (`Dim.DYNAMIC` would record [2, inf), which some formats enforce.)
        strict: trace through TorchDynamo, which refuses Python side effects.

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
    except (
        Exception
    ) as exc:  # torch.export raises some thirty types, RuntimeError and AssertionError among them
        mends = ["--batch-size instead of --dynamic-batch"] * dynamic + ["a run without --strict"] * strict
        mend = f" Try {' or '.join(mends)}." if mends else ""
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise UnsupportedError(f"torch.export cannot trace this model: {reason}{mend}") from exc


def _simplify(graph_module: torch.fx.GraphModule) -> bool:
    """Exact rewrites of the graph, in place; whether anything changed, so that it must be traced anew."""
    from torch._inductor.constant_folding import constant_fold

    from timmx.rewrites import replace_unfold

    before = _calls(graph_module)
    unfolds = replace_unfold(graph_module)
    if unfolds:
        reporter().detail(f"Rewrote {unfolds} Tensor.unfold as slices.")
    constant_fold(graph_module)
    after = _calls(graph_module)
    if after != before and not unfolds:
        reporter().detail(f"Folded {before - after} of {before} operations into constants.")
    return bool(unfolds) or after != before


def _calls(graph_module: torch.fx.GraphModule) -> int:
    return sum(node.op == "call_function" for node in graph_module.graph.nodes)
