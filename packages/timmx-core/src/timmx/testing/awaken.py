"""Untrained timm models made into good witnesses: every branch takes part, every norm has real statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

    Norm scales come near 1, layer scales and sleeping norm scales near 0.5; parameters that are all zero
    become small random ones; batch norms take their statistics from one batch of random inputs.

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
    size = input_size or _input_size(model)
    if _take_statistics(model, torch.randn(batch, *size, generator=generator)):
        _calm(model, torch.randn(2, *size, generator=generator))
    return model


def _input_size(model: Any) -> tuple[int, int, int]:
    """(C, H, W) as the model was built, `in_chans` and `img_size` heeded."""
    channels, *size = model.pretrained_cfg["input_size"]
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or size
    first = model.pretrained_cfg.get("first_conv")
    for name in [first] if isinstance(first, str) else first or []:
        own = getattr(dict(model.named_modules()).get(name), "in_channels", channels)
        if own != channels and own % 16:  # tresnet and its like fold 4 x 4 pixels into channels first
            channels = own
    return channels, size[0], size[1]


def _norm_scales(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 1:
                yield weight


def _take_statistics(model: nn.Module, inputs: torch.Tensor) -> bool:
    """One forward with only the batch norms in training mode, their running values set to the batch's."""
    model.eval()
    norms = {norm: norm.momentum for norm in _batch_norms(model)}
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        if norms:
            model(inputs.to(next(model.parameters())))
    finally:
        for norm, momentum in norms.items():
            norm.eval()
            norm.momentum = momentum
    return bool(norms)


def _calm(model: nn.Module, inputs: torch.Tensor) -> None:
    """Widen the norms' variances until a rounding of the input stays a rounding of the output.

    Statistics of a few random images fit other images badly, and what is left over grows from layer to
    layer: float32 resolves halonet_h1 to 4 dB, inception_v4 to 57 dB. Too wide, and a deep network without
    skips (mobileone) forgets its input. So the least factor that gives 100 dB is taken, or the best one.
    """
    inputs = inputs.to(next(model.parameters()))
    nudged = inputs * (1 + 2**-22 * torch.sign(inputs))
    best_db, best = -float("inf"), 1.0
    applied = 1.0
    for factor in (1.0, 1.15, 1.3, 1.6, 2.0):
        applied = _widen(model, factor, applied)
        snr_db = _resolved_db(model(torch.cat((inputs, nudged))))
        if snr_db > best_db:
            best_db, best = snr_db, factor
        if snr_db >= 100:
            break
    _widen(model, best, applied)


def _widen(model: nn.Module, factor: float, applied: float) -> float:
    """Multiply the measured variances by `factor`, where they are `applied` times themselves now."""
    for norm in _batch_norms(model):
        if norm.running_var is not None:
            norm.running_var *= factor / applied
    return factor


def _resolved_db(outputs: Any) -> float:
    """How far the second half of a batch is from the first, beside how much the first varies."""
    while not isinstance(outputs, torch.Tensor):
        outputs = list(outputs.values() if isinstance(outputs, dict) else outputs)[-1]
    plain, nudged = outputs.double().chunk(2)
    signal = (plain - plain.mean(0)).square().sum()
    return float(10 * torch.log10(signal / (nudged - plain).square().sum()))


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
