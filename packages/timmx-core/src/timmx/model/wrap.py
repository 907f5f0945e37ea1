"""The module that is exported: a model with normalization before it and softmax or sigmoid after it, both optional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from timmx.contract import Activation
from timmx.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Normalize(nn.Module):
    """`(x - mean) / std` for pixels in [0, 1], (N, C, H, W), with one mean and std per channel."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std


class ExportModule(nn.Module):
    """A timm model as an artifact computes it: one input named `input`; outputs a tensor or a flat tuple.

    Its children are named `normalize`, `model` and `activation`, so that a backend can see from a node's scope which
    part it belongs to.
    """

    def __init__(
        self, model: nn.Module, normalize: Normalize | None = None, activation: Activation = Activation.NONE
    ) -> None:
        super().__init__()
        self.normalize = normalize or nn.Identity()
        self.model = model
        self.activation = {
            Activation.SOFTMAX: nn.Softmax(dim=-1),
            Activation.SIGMOID: nn.Sigmoid(),
            Activation.NONE: nn.Identity(),
        }[activation]

    def forward(self, input: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs, _ = pytree.tree_flatten(self.model(self.normalize(input)))
        if len(outputs) == 1:
            return self.activation(outputs[0])
        return tuple(outputs)


def output_tensors(outputs: Any) -> list[torch.Tensor]:
    """The tensors of a model's output as a flat list, in torch's order of nested tuples, lists and dicts.

    Raises:
        UnsupportedError: the output holds anything else.
    """
    leaves = pytree.tree_flatten(outputs)[0]
    others = {type(leaf).__name__ for leaf in leaves if not isinstance(leaf, torch.Tensor)}
    if others or not leaves:
        raise UnsupportedError(
            f"the model returns {', '.join(sorted(others)) or 'nothing'}, but only tensors can be exported",
            hint="wrap it in a module that returns tensors",
        )
    return leaves


def output_names(outputs: Any, single: str, features: bool) -> tuple[str, ...]:
    """Stable names for a model's outputs: `single`, `features_0`..., the keys of a dict, or `output_0`...

    Args:
        outputs: the model's outputs for any input.
        single: the name of a single output, `output` or `embedding`.
        features: whether they are a feature pyramid.
    """
    paths = [path for path, _ in pytree.tree_flatten_with_path(outputs)[0]]
    if features:
        return tuple(f"features_{index}" for index in range(len(paths)))
    if len(paths) == 1:
        return (single,)
    names: list[str] = []
    for path in paths:
        name = "_".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
        if name.isdigit() or name == "input":
            name = f"output_{name}"
        while name in names:
            name += "_"
        names.append(name)
    return tuple(names)
