"""Runs a module as if layers had 8-bit weights, in a fraction of the time that quantizing it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class StoredWeights:
    """The arithmetic of `LayerQuantizer`, in PyTorch.

    Args:
        module: float32.
        activations: inputs of the layers are rounded too, by their range in each image.
    """

    def __init__(self, module: torch.fx.GraphModule, *, activations: bool) -> None:
        self._module, self._activations = module, activations
        self._weights: dict[str, torch.Tensor] = {}

    def of(self, chosen: Collection[str]) -> Callable[[torch.Tensor], Any]:
        """The module with these nodes quantized."""
        return _Rounding(self._module, chosen, self._weights, self._activations).run


class _Rounding(torch.fx.Interpreter):
    def __init__(
        self,
        module: torch.fx.GraphModule,
        chosen: Collection[str],
        weights: dict[str, torch.Tensor],
        activations: bool,
    ) -> None:
        super().__init__(module)
        self._chosen, self._weights, self._activations = chosen, weights, activations

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.name not in self._chosen:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        source, weight, *rest = args
        if n.name not in self._weights:
            self._weights[n.name] = _rounded_weight(weight)
        if self._activations:
            source = _rounded(source)
        return n.target(source, self._weights[n.name], *rest, **kwargs)  # type: ignore[operator]


def _rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """By one scale per output channel, symmetric."""
    scale = weight.abs().amax(list(range(1, weight.ndim)), keepdim=True).clamp(min=2**-20) / 127
    return (weight / scale).round() * scale


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """By one scale and zero point per image."""
    dims = list(range(1, x.ndim))
    low, high = x.amin(dims, keepdim=True).clamp(max=0), x.amax(dims, keepdim=True).clamp(min=0)
    scale = (high - low).clamp(min=2**-20) / 255
    zero_point = (-low / scale).round()
    return ((x / scale).round() + zero_point).clamp(0, 255).sub(zero_point) * scale
