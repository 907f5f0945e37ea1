"""How well inputs fit a model: statistics of its activations, compared with those that its batch norms have stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from timmx.model.fold import FOLDED_STATISTICS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Activations before the batch norms, compared with those of training; medians over channels, then over norms.

    Attributes:
        norms: number of batch norms.
        shift: distance of the means, in standard deviations of training.
        ratio: variance relative to that of training.
        divergence: Kullback-Leibler divergence of the two normal distributions in nats; 0 if they are equal.
        top: the indices of the largest values of the first output; empty if it is not (N, 2 or more).
    """

    norms: int
    shift: float
    ratio: float
    divergence: float
    top: frozenset[int] = frozenset()


def fit_of(module: nn.Module, inputs: Iterable[np.ndarray], device: str) -> Fit | None:
    """Run inputs, and compare the activations with the statistics of batch norms, also of those that were folded.

    Args:
        module: in eval mode; prepared or not.
        inputs: (1, C, H, W) float32 each.
        device: of the module.

    Returns:
        None if the model has no batch norms with statistics.
    """
    watched = [*_own(module), *_folded(module)]
    if not watched:
        return None
    handles = [item.watch() for item in watched]
    top: set[int] = set()
    try:
        with torch.inference_mode():
            for array in inputs:
                output = module(torch.from_numpy(array).to(device))
                first = output[0] if isinstance(output, (list, tuple)) else output
                if first.ndim == 2 and first.shape[1] > 1:
                    top.update(first.argmax(1).tolist())
    finally:
        for handle in handles:
            handle.remove()
    figures = [item.figures() for item in watched if item.count]
    if not figures:
        return None
    shift, ratio, divergence = np.median(np.array(figures), axis=0)
    return Fit(
        norms=len(figures),
        shift=float(shift),
        ratio=float(ratio),
        divergence=float(divergence),
        top=frozenset(top),
    )


class _Watched:
    """The statistics of one tensor per channel, axis 1: those of training, and those of the inputs."""

    def __init__(self, module: nn.Module, mean: Any, variance: Any, *, of_input: bool) -> None:
        self._module, self._of_input = module, of_input
        self._mean, self._variance = mean.double().cpu(), variance.double().cpu()
        self.count = 0
        self._sum = torch.zeros_like(self._mean)
        self._squares = torch.zeros_like(self._mean)

    def watch(self) -> Any:
        return self._module.register_forward_hook(self._add)

    def _add(self, _module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        values = (args[0] if self._of_input else output).detach().double().cpu()
        values = values.transpose(0, 1).flatten(1) - self._mean[:, None]
        self.count += values.shape[1]
        self._sum += values.sum(1)
        self._squares += values.square().sum(1)

    def figures(self) -> tuple[float, float, float]:
        used = self._variance > _LEAST_VARIANCE
        mean = (self._sum / self.count)[used]
        variance = (self._squares / self.count)[used] - mean**2
        squared_shift = mean**2 / self._variance[used]
        ratio = (variance / self._variance[used]).clamp(min=_LEAST_VARIANCE)
        divergence = (ratio + squared_shift - 1 - ratio.log()) / 2
        return squared_shift.sqrt().median().item(), ratio.median().item(), divergence.median().item()


_LEAST_VARIANCE = 1e-12


def _own(module: nn.Module) -> list[_Watched]:
    return [
        _Watched(norm, norm.running_mean, norm.running_var + norm.eps, of_input=True)  # type: ignore[operator]
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and _is_trained(norm)
    ]


def _folded(module: nn.Module) -> list[_Watched]:
    stored = [(layer, getattr(layer, FOLDED_STATISTICS, None)) for layer in module.modules()]
    return [
        _Watched(layer, *map(torch.from_numpy, item), of_input=False)
        for layer, item in stored
        if item is not None
    ]


def _is_trained(norm: Any) -> bool:
    """Whether a norm has statistics, other than the initial ones."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and not (bool((mean == 0).all()) and bool((variance == 1).all()))
