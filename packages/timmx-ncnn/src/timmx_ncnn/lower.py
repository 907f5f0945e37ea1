"""Rewrites a captured program for ncnn: the same function, in operations that have layers and at most four axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import (
    BICUBIC_OR_ANTIALIASED,
    col2im,
    decompose,
    drop_copies,
    drop_expands,
    im2col,
    rank_decompositions,
    resize_by_matmul,
    use_reshapes,
)
from torch.export import default_decompositions

from timmx_ncnn.layers import MOST_AXES

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

aten = torch.ops.aten


def lower(program: torch.export.ExportedProgram, kept: Container[Any]) -> torch.export.ExportedProgram:
    """The same function in operations that are translated.

    Args:
        program: from `job.capture()`, with a batch size of 1, on the CPU; not changed.
        kept: operations that are translated, and not decomposed.
    """
    with torch.no_grad():
        lowered = decompose(program, _decompositions(kept))
    drop_copies(lowered)
    drop_expands(lowered.graph)
    use_reshapes(lowered.graph)
    lowered.graph.eliminate_dead_code()
    return lowered


def _decompositions(kept: Container[Any]) -> dict[Any, Callable[..., Any]]:
    """torch's own, apart from those of kept operations, and those of operations that ncnn lacks."""
    table = {
        operation: function
        for operation, function in default_decompositions().materialize().items()
        if operation not in kept
    }
    return (
        table
        | rank_decompositions(MOST_AXES)
        | {operation: resize_by_matmul(operation) for operation in BICUBIC_OR_ANTIALIASED}
        | {aten.im2col.default: im2col, aten.col2im.default: col2im, aten.var.correction: _var}
    )


def _var(
    x: torch.Tensor,
    dims: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> torch.Tensor:
    """The variance as means."""
    dims = list(dims) if dims else list(range(x.ndim))
    centered = x - x.mean(dims, keepdim=True)
    count = math.prod(x.shape[dim] for dim in dims)
    factor = count / (count - (1 if correction is None else correction))
    return (centered * centered).mean(dims, keepdim=keepdim) * factor
