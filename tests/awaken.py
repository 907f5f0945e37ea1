"""Untrained timm models made into good witnesses: every branch takes part, every norm has real statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Iterator


@torch.no_grad()
def awaken(
    model: nn.Module, seed: int = 0, input_size: tuple[int, int, int] | None = None, batch: int = 8
) -> nn.Module:
    """Change a freshly made model in place so that no branch is asleep, and return it in eval mode.

    Norm scales come near 1, layer scales and sleeping norm scales near 0.5, parameters that are all zero become small random ones, and
    batch norms take their statistics from one batch of random inputs.

    Args:
        model: a timm model.
        seed: of the random numbers; equal seeds give equal models.
        input_size: (C, H, W) of the statistics' inputs; the model's own unless given.
        batch: how many of them. Statistics of too few do not fit other inputs, and deep attention then runs
            away: float32 resolves levit_128s to 38 dB after a batch of 2, to 104 dB after one of 8.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = {id(parameter) for parameter in _norm_scales(model)}
    for parameter in model.parameters():
        flat = parameter.flatten()
        if not parameter.is_floating_point() or not len(flat):
            continue
        value = float(flat[0])
        is_scale = id(parameter) in scales
        if not is_scale and not bool((flat == value).all()):
            continue
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        one_axis = sum(size > 1 for size in parameter.shape) <= 1
        if is_scale or (one_axis and (0 < abs(value) < 0.5 or value == 1)):
            # A branch that starts asleep gets half a voice: with a whole one float32 resolves levit_128s to
            # 92 dB, with half to 104.
            parameter.copy_((1 if value == 1 else 0.5) * (1 + 0.1 * noise))
        elif value == 0:
            parameter.copy_(0.02 * noise)
    size = input_size or model.pretrained_cfg["input_size"]
    _take_statistics(model, torch.randn(batch, *size, generator=generator))
    return model


def _norm_scales(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 1:
                yield weight


def _take_statistics(model: nn.Module, inputs: torch.Tensor) -> None:
    """One forward with only the batch norms in training mode, their running values set to the batch's."""
    model.eval()
    norms = [(module, module.momentum) for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    parameter = next(model.parameters())
    for norm, _ in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        model(inputs.to(parameter))
    finally:
        for norm, momentum in norms:
            norm.eval()
            norm.momentum = momentum
