"""Changes untrained models so that verification finds errors: every branch is active, norms have real statistics."""

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
    """Change an untrained model in place so that no branch is inactive, and return it in eval mode.

    Norm scales become about 1, layer scales and zero norm scales about 0.5; parameters that are all zero
    become small random ones; batch norms take their statistics from one batch of random inputs.

    Args:
        model: a timm model.
        seed: of the random numbers; the same seed gives the same model.
        input_size: (C, H, W) of the inputs for the statistics; by default the model's.
        batch: number of these inputs. Statistics of too few do not fit other inputs, and deep attention then
            diverges: float32 resolves levit_128s to 38 dB after a batch of 2, to 104 dB after one of 8.
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
            # An inactive branch gets a scale of 0.5: with a scale of 1 float32 resolves levit_128s to
            # 92 dB, with 0.5 to 104.
            parameter.copy_((1 if value == 1 else 0.5) * (1 + 0.1 * noise))
        elif value == 0:
            parameter.copy_(0.02 * noise)
    size = input_size or _input_size(model)
    if _take_statistics(model, torch.randn(batch, *size, generator=generator)):
        _calm(model, torch.randn(2, *size, generator=generator))
    return model


def _input_size(model: Any) -> tuple[int, int, int]:
    """(C, H, W) of the model as it was built, with `in_chans` and `img_size`."""
    channels, *size = model.pretrained_cfg["input_size"]
    size = getattr(getattr(model, "patch_embed", None), "img_size", None) or size
    first = model.pretrained_cfg.get("first_conv")
    for name in [first] if isinstance(first, str) else first or []:
        own = getattr(dict(model.named_modules()).get(name), "in_channels", channels)
        if own != channels and own % 16:  # models such as tresnet fold 4 x 4 pixels into channels first
            channels = own
    return channels, size[0], size[1]


def _norm_scales(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 1:
                yield weight


def _take_statistics(model: nn.Module, inputs: torch.Tensor) -> bool:
    """Run the model once with only the batch norms in training mode; this sets their running statistics."""
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
    """Increase the norms' variances until a rounding error of the input stays as small in the output.

    Statistics of a few random images fit other images badly, and the remaining error grows from layer to
    layer: float32 resolves halonet_h1 to 4 dB, inception_v4 to 57 dB. If they are too large, a deep network without
    skips (mobileone) loses its input. So the smallest factor that gives 100 dB is used, or else the best one.
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
    """Scale the measured variances by `factor`; they are scaled by `applied` now."""
    for norm in _batch_norms(model):
        if norm.running_var is not None:
            norm.running_var *= factor / applied
    return factor


def _resolved_db(outputs: Any) -> float:
    """The difference of the two halves of a batch, relative to the variation within the first, in dB."""
    while not isinstance(outputs, torch.Tensor):
        outputs = list(outputs.values() if isinstance(outputs, dict) else outputs)[-1]
    plain, nudged = outputs.double().chunk(2)
    signal = (plain - plain.mean(0)).square().sum()
    return float(10 * torch.log10(signal / (nudged - plain).square().sum()))


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
