"""Tiny models for tests: random weights, but every branch is active."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from timmx.model import awaken

if TYPE_CHECKING:
    from torch import nn

__all__ = ["awaken", "awakened_model", "small_model", "tiny_model"]

_FEWER_BLOCKS: dict[str, dict[str, Any]] = {"test_vit": {"depth": 1}}
"""The blocks of these models are equal, and each takes as long to convert as a small network."""


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


def small_model(name: str) -> nn.Module:
    """`awakened_model` with as few blocks as keep every kind of layer."""
    return awakened_model(name, **_FEWER_BLOCKS.get(name, {}))


def tiny_model(num_classes: int = 10) -> nn.Module:
    """One convolution and a head, for a check that needs any model."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (
            nn.Conv2d(3, 8, 3, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, num_classes),
        )
        model = nn.Sequential(*layers).eval()
    model.pretrained_cfg = {"input_size": (3, 32, 32), "num_classes": num_classes}  # type: ignore[assignment]
    return model
