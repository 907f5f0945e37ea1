"""Rewrites a captured program into operations that coremltools converts correctly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def lower(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Rewrite a program into operations that coremltools 9.0 converts correctly.

    Layer norms, GELU, softmax and fused attention stay whole. Only what coremltools 9.0 lacks, refuses or converts
    incorrectly is rewritten; see `timmx_coreml.lowering`.

    Args:
        program: from `timmx.capture`, static or with a dynamic batch size, which is kept. It is not changed.

    Returns:
        A new program that computes the same function.

    Raises:
        UnsupportedError: coremltools cannot convert an operation; the message names it and its layer.
    """
    from timmx.plugin import (
        decompose,
        drop_copies,
        drop_expands,
        infer_symbolic_sizes,
        merge_reshapes,
        use_reshapes,
    )

    from timmx_coreml.lowering.check import check
    from timmx_coreml.lowering.decompositions import decompositions
    from timmx_coreml.translations import register

    register()
    lowered = decompose(program, decompositions())
    drop_copies(lowered)
    drop_expands(lowered.graph)
    use_reshapes(lowered.graph)
    merge_reshapes(lowered.graph)
    infer_symbolic_sizes(lowered.graph)
    lowered.graph.eliminate_dead_code()
    lowered.graph.lint()
    lowered.graph_module.recompile()
    check(lowered)
    return lowered
