"""Rewrites a captured program for ExecuTorch: the same function, in operations that it and its delegates compute."""

from __future__ import annotations

import torch
from timmx.plugin import (
    decompose,
    drop_copies,
    drop_expands,
    infer_symbolic_sizes,
    merge_reshapes,
    use_reshapes,
)

from timmx_executorch.decompositions import decompositions


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
        lowered = decompose(program, decompositions())
    drop_copies(lowered)
    drop_expands(lowered.graph)
    use_reshapes(lowered.graph)
    merge_reshapes(lowered.graph)
    infer_symbolic_sizes(lowered.graph)
    lowered.graph.eliminate_dead_code()
    lowered.graph_module.recompile()
    return lowered
