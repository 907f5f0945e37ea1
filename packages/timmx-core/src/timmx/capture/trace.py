"""torch.export of a prepared model, with its constants folded."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from timmx.base import reporter
from timmx.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    import torch

    from timmx.capture.folding import fold_program
    from timmx.capture.rewrites import replace_unfold

    program = _trace(module, example, dynamic, strict)
    if program.graph.find_nodes(op="call_function", target=torch.ops.aten.unfold.default):
        graph_module = program.module()
        if unfolds := replace_unfold(graph_module):
            reporter().detail(f"Rewrote {unfolds} Tensor.unfold as slices.")
            program = _trace(graph_module, example, dynamic, strict=False)
    return fold_program(program)


def move_to_cpu(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program on the CPU, for converters that read its weights as numpy arrays; itself if it is there."""
    if all(
        value.device.type == "cpu" for value in (*program.state_dict.values(), *program.constants.values())
    ):
        return program
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, "cpu")


@contextlib.contextmanager
def without_stack_traces() -> Iterator[None]:
    """Inside the block, a trace does not record the stack of each operation.

    A `.pt2` file would store it, with paths of this machine, and it takes a fifth of the time of a trace.
    """
    import torch.fx

    before = torch.fx.config.do_not_emit_stack_traces
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


def _trace(
    module: torch.nn.Module, example: torch.Tensor, dynamic: bool, strict: bool
) -> torch.export.ExportedProgram:
    import torch

    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    try:
        with torch.no_grad(), without_stack_traces():
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=strict)
    # torch.export raises some thirty types, RuntimeError and AssertionError among them
    except Exception as exc:
        ways = ["--batch-size instead of --dynamic-batch"] * dynamic + ["a run without --strict"] * strict
        hint = f"try {' or '.join(ways)}" if ways else ""
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0].rstrip(".")
        raise UnsupportedError(f"torch.export cannot trace this model: {reason}", hint=hint) from exc
    if strict:  # TorchDynamo records them all the same
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
    return program
