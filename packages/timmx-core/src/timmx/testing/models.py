"""Tiny models for tests: random weights, but every branch is active."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from timmx.model import awaken

if TYPE_CHECKING:
    from torch import nn

__all__ = ["awaken", "awakened_model"]


@cache
def awakened_model(name: str, **options: Any) -> nn.Module:
    """A timm model with random weights, changed by `awaken`; it is cached, so do not change it.

    Args:
        name: timm's name; the `test_*` models export in 1 to 2 s.
        options: for `timm.create_model`.
    """
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return awaken(timm.create_model(name, **options))
