"""Watches timm load weights: which tensors of a model a file did not have, and which of the file's were not used."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@dataclass(frozen=True)
class Loading:
    """One call of `load_state_dict` that succeeded.

    Attributes:
        module: the module that the tensors were loaded into.
        missing: its names that the state dict did not have.
        unexpected: names of the state dict that it does not have.
    """

    module: nn.Module
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def missing_in(self, model: nn.Module) -> dict[str, Tensor]:
        """The missing tensors that `model` uses, which may be a part of the module."""
        own = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
        tensors = self.module.state_dict(keep_vars=True)
        return {name: tensors[name] for name in self.missing if name in tensors and id(tensors[name]) in own}


@contextlib.contextmanager
def watch_loading() -> Iterator[list[Loading]]:
    """Record the calls of `load_state_dict` inside the block.

    timm 1.0 loads without `strict` if the number of classes differs from the weights', and only logs what is missing.
    """
    from torch import nn

    load_state_dict = nn.Module.load_state_dict
    loadings: list[Loading] = []

    def watch(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = load_state_dict(self, *args, **kwargs)
        loadings.append(Loading(self, tuple(result.missing_keys), tuple(result.unexpected_keys)))
        return result

    nn.Module.load_state_dict = watch  # type: ignore[method-assign]
    try:
        yield loadings
    finally:
        nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
