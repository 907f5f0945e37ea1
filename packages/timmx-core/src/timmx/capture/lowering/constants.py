"""Constants in the midst of a decomposition."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes


def traced_constant(values: Any, like: torch.Tensor) -> torch.Tensor:
    """A tensor of known numbers, of the type of `like`, that a trace lifts into the program's constants.

    `torch.tensor` itself would trace an operation in place, which a program in functional form must not have.
    """
    with _disable_current_modes():
        real = torch.tensor(values, dtype=like.dtype)
    lifted: torch.Tensor = torch.ops.aten.lift_fresh_copy.default(real)
    return lifted
