"""Converts a captured program to ncnn layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

# fill the table of `timmx_ncnn.translate`
import timmx_ncnn.arithmetic
import timmx_ncnn.attention
import timmx_ncnn.convolution
import timmx_ncnn.joining
import timmx_ncnn.maps
import timmx_ncnn.movement
import timmx_ncnn.products  # noqa: F401
from timmx_ncnn.lower import lower
from timmx_ncnn.translate import TABLE, Translation

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from timmx_ncnn.layers import Layer


def convert(program: torch.export.ExportedProgram, outputs: Sequence[str]) -> list[Layer]:
    """The layers of a program, from `input` to the outputs.

    Args:
        program: from `job.capture()`, with a batch size of 1, on the CPU; not changed.
        outputs: their names.

    Raises:
        UnsupportedError: an operation has no layers in ncnn, or a tensor has too many axes.
    """
    return Translation(lower(program, TABLE), outputs).layers
