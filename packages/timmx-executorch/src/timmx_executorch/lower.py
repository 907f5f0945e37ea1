"""Rewrites a captured program for ExecuTorch: bounds its batch size, and replaces operations outside core ATen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import (
    BICUBIC_OR_ANTIALIASED,
    attention_on_four_axes,
    col2im,
    decompose,
    drop_copies,
    im2col,
    resize_by_matmul,
)

if TYPE_CHECKING:
    from collections.abc import Callable

aten = torch.ops.aten


def lower(
    program: torch.export.ExportedProgram, example: torch.Tensor, batch_max: int | None
) -> torch.export.ExportedProgram:
    """The same function in operations that ExecuTorch has.

    Args:
        program: from `job.capture()`, on the CPU; not changed.
        example: an input to trace with, if the batch size is dynamic.
        batch_max: the largest batch size, if it is dynamic: ExecuTorch reserves memory for it.
    """
    with torch.no_grad():
        if batch_max is not None:  # traced again, since the capture shares its sizes with other formats
            shapes = ({0: torch.export.Dim("batch", min=1, max=batch_max)},)
            program = torch.export.export(program.module(), (example,), dynamic_shapes=shapes)
        lowered = decompose(program, _decompositions())
    drop_copies(lowered)
    lowered.graph_module.recompile()
    return lowered


def _decompositions() -> dict[Any, Callable[..., Any]]:
    return {op: resize_by_matmul(op) for op in BICUBIC_OR_ANTIALIASED} | {
        aten.im2col.default: im2col,
        aten.col2im.default: col2im,
        aten.scaled_dot_product_attention.default: attention_on_four_axes,
    }
