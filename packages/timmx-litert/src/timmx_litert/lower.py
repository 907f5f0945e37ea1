"""Rewrites a captured program for litert-torch: the same function, in operations that it translates correctly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def lower(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The same function as a module for `litert_torch.convert`.

    Args:
        program: from `timmx.capture`, static. Neither it nor its constants are changed.
    """
    from timmx.plugin import (
        decompose,
        drop_copies,
        drop_expands,
        fold_constants,
        merge_reshapes,
        use_reshapes,
    )

    from timmx_litert.lowering.broadcasts import permute_before_expanding
    from timmx_litert.lowering.constants import own_constants
    from timmx_litert.lowering.decompositions import decompositions

    decomposed = decompose(program, decompositions())
    drop_copies(decomposed)
    drop_expands(decomposed.graph)
    use_reshapes(decomposed.graph)  # a view may be invalid when the input is NHWC
    merge_reshapes(decomposed.graph)
    permute_before_expanding(decomposed.graph)
    merge_reshapes(decomposed.graph)
    decomposed.graph_module.recompile()
    lowered = decomposed.module()
    fold_constants(lowered)
    own_constants(lowered)
    return lowered
