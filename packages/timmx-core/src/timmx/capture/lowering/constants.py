"""Constants inside a decomposition."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes


def traced_constant(values: Any, like: torch.Tensor) -> torch.Tensor:
    """A tensor of numbers, of the type of `like`, that becomes a constant of the traced program.

    `torch.tensor` would trace an in-place operation, which a functional program must not have.
    """
    with _disable_current_modes():
        real = torch.tensor(values, dtype=like.dtype)
    lifted: torch.Tensor = torch.ops.aten.lift_fresh_copy.default(real)
    return lifted
