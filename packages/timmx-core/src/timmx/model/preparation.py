"""Prepares a loaded model for export: exact rewrites, each verified against the original model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from timm.utils.model import reparameterize_model
from torch import nn

from timmx.base import worst_db
from timmx.errors import UnsupportedError
from timmx.model.build import first_line
from timmx.model.fold import fold_batch_norms, is_replaceable, replace_modules
from timmx.model.wrap import output_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

FLOOR_DB = 80.0
"""Minimum ratio after an exact rewrite in float32; rounding usually leaves 100 dB and more."""

_ROUNDING_MARGIN_DB = 20.0
"""How much farther from the exact function the original model may be than the rewritten one.

It rounds more often, and with untrained statistics equally in all channels: inception_v3 is 9 dB farther on a CPU and
over 10 dB on CUDA.
"""

_NUDGES = 4
"""Number of runs with the last bit of the inputs changed, if a rewrite does not seem to be exact."""

_STANDARDIZED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)
_METHODS = ("fuse", "reparameterize", "switch_to_deploy")


@dataclass(frozen=True)
class Rewrite:
    """One kind of rewrite that changed the model.

    Attributes:
        name: such as `fold batch norm`.
        count: number of changed modules, at least 1.
        snr_db: signal-to-noise ratio of the rewritten model against the original one; the worst output's.
    """

    name: str
    count: int
    snr_db: float


@dataclass(frozen=True)
class PreparedModel:
    """A model ready for capture, in eval mode, and the applied rewrites, in order."""

    model: nn.Module
    rewrites: tuple[Rewrite, ...]


def prepare(model: nn.Module, inputs: torch.Tensor, reference: Any, *, in_place: bool) -> PreparedModel:
    """Apply every exact rewrite that fits the model, and check each by running the model.

    Args:
        model: a timm model, on one device.
        inputs: (N, C, H, W) on the model's device; use at least 4 different inputs. On CUDA, turn TF32 off, here and
            for the reference: with it, two equal functions differ by 25 to 55 dB.
        reference: the original model's outputs for `inputs` in eval mode: a tensor, or a tuple, list or
            dict of tensors.
        in_place: change `model` itself, which saves a copy; otherwise it is not changed.

    Returns:
        The prepared model (the root may be another object even in place) and its rewrites.

    Raises:
        UnsupportedError: a rewrite is not exact for this model. A model changed in place is then unusable.
    """
    if not in_place:
        model = copy_model(model)
    model.eval()
    true = [_array(tensor) for tensor in output_tensors(reference)]
    rewrites = []
    # The order matters: timm's own methods expect the original norms and convolutions, and a standardized
    # convolution needs a plain weight before a norm can be folded into it.
    for name, rewrite in (
        ("reparameterize", _reparameterize),
        ("standardize weights", _standardize_weights),
        ("fold batch norm", lambda model: (model, fold_batch_norms(model, inputs[:1]))),
    ):
        with torch.no_grad():
            model, count = rewrite(model)
            if count:
                rewrites.append(Rewrite(name, count, _proven_db(name, model, inputs, true)))
    return PreparedModel(model, tuple(rewrites))


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy. Tensors with a gradient history, which torch does not copy, are detached."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _held_tensors(vars(module)):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    return copy.deepcopy(model, memo)


def _reparameterize(model: nn.Module) -> tuple[nn.Module, int]:
    """Apply timm's own fusions (RepVGG, MobileOne, LeViT...), to the root module too.

    timm's `reparameterize_model` handles only children, so the root becomes a child. Some of its fusions build
    their new layers on the CPU in float32 (levit, tiny_vit), all of them with gradients; both are set back.
    """
    candidates = [
        (module, _parameter_ids(module))
        for module in model.modules()
        if any(hasattr(module, method) for method in _METHODS)
    ]
    if not candidates:
        return model, 0
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    devices, dtypes = {p.device for p in parameters}, {p.dtype for p in parameters}
    frozen = not any(p.requires_grad for p in parameters)
    holder = nn.Sequential(model)
    reparameterize_model(holder, inplace=True)
    model = holder[0]
    if len(devices) == len(dtypes) == 1:
        model.to(device=devices.pop(), dtype=dtypes.pop())
    if frozen:
        model.requires_grad_(False)
    modules = set(model.modules())
    count = sum(module not in modules or _parameter_ids(module) != before for module, before in candidates)
    return model.eval(), count


def _standardize_weights(model: nn.Module) -> tuple[nn.Module, int]:
    """Replace convolutions that standardize their weight at each call by plain ones with that weight."""
    replacements: dict[int, nn.Module] = {
        id(module): _plain(module)
        for module in model.modules()
        if type(module) in _STANDARDIZED and is_replaceable(module)
    }
    replace_modules(model, replacements)
    return model, len(replacements)


def _plain(conv: Any) -> nn.Conv2d:
    """The same convolution with its standardized weight as a constant, computed in float64.

    Source: timm's `ScaledStdConv2d.forward`: (w - mean) / sqrt(var + eps) * gain * scale per output channel.
    """
    weight = conv.weight.double().flatten(1)
    variance, mean = torch.var_mean(weight, dim=1, correction=0, keepdim=True)
    weight = (weight - mean) * (variance + conv.eps).rsqrt()
    if hasattr(conv, "gain"):
        weight *= conv.gain.double().flatten(1) * conv.scale
    plain = (Conv2dSame if getattr(conv, "same_pad", False) else nn.Conv2d)(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    plain.weight = nn.Parameter(
        weight.reshape(conv.weight.shape).to(conv.weight.dtype), requires_grad=conv.weight.requires_grad
    )
    plain.bias = conv.bias
    return plain.eval()


def _proven_db(name: str, model: nn.Module, inputs: torch.Tensor, true: list[np.ndarray]) -> float:
    """Run the rewritten model and compare it with the reference; the worst output's ratio in dB.

    Raises:
        UnsupportedError: it fails, or computes something else.
    """
    who = _architecture(model)
    report = "report this model to timmx"
    try:
        outputs = [_array(tensor) for tensor in output_tensors(model(inputs))]
    except Exception as exc:
        raise UnsupportedError(
            f"{who} no longer runs after the rewrite '{name}': {first_line(exc)}; nothing was exported",
            hint=report,
        ) from exc
    if [array.shape for array in outputs] != [array.shape for array in true]:
        raise UnsupportedError(
            f"{who} has outputs of other shapes after the rewrite '{name}'; nothing was exported", hint=report
        )
    snr_db = worst_db(true, outputs)
    if snr_db < FLOOR_DB and not _rounding_explains(model, inputs, true, outputs):
        raise UnsupportedError(
            f"'{name}' changes what {who} computes: {snr_db:.0f} dB, where an exact rewrite has "
            f"{FLOOR_DB:.0f} or more; nothing was exported",
            hint=report,
        )
    return snr_db


def _rounding_explains(
    model: nn.Module, inputs: torch.Tensor, true: list[np.ndarray], outputs: list[np.ndarray]
) -> bool:
    """Whether float32 rounding explains the difference.

    With untrained weights it can (efficientvit_b0, starnet_s050, iformer_t...): outputs hardly vary with the input,
    or deep layers are chaotic. In float64 the rewritten model has negligible rounding. If the reference is about as
    close to that as the rewritten model's float32 outputs are, for inputs with other last bits too (levit_128s: one
    run is 25 dB off, the next 47), all compute the same function.
    """
    try:
        exact = copy_model(model).double()
        resolved = [_array(tensor) for tensor in output_tensors(exact(inputs.double()))]
    except RuntimeError:  # a model whose forward names float32 does not run in float64
        return False
    signs = torch.Generator().manual_seed(0)
    nudged = [
        inputs * (1 + 2**-23 * torch.randn(inputs.shape, generator=signs).sign().to(inputs.device))
        for _ in range(_NUDGES)
    ]
    runs = [outputs, *([_array(tensor) for tensor in output_tensors(model(x))] for x in nudged)]
    return worst_db(resolved, true) >= min(worst_db(resolved, run) for run in runs) - _ROUNDING_MARGIN_DB


def _architecture(model: nn.Module) -> str:
    """timm's name of the model, which may be wrapped; otherwise its class."""
    for module in model.modules():
        if name := (getattr(module, "pretrained_cfg", None) or {}).get("architecture"):
            return str(name)
    return type(model).__name__


def _array(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array, in a type that numpy has."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _parameter_ids(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}


def _held_tensors(value: Any) -> Iterable[torch.Tensor]:
    """Tensors among a module's attributes, including buffers and plain containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _held_tensors(item)
