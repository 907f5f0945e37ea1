"""Gives constants a form that litert-torch 0.10 reads correctly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


def own_constants(module: torch.fx.GraphModule) -> None:
    """Copy every constant that litert-torch's `inline_consts` would read wrongly or change.

    It copies a tensor that is not contiguous and remembers the copy by its address; the next copy, at the same address,
    is mistaken for the same constant: eva02 gets the sines of one block for the cosines of all. It also replaces
    infinities by the largest number in place, which would change the model itself.
    """
    tensors: Iterable[tuple[str, torch.Tensor]] = (*module.named_parameters(), *module.named_buffers())
    for name, tensor in tensors:
        if tensor.is_contiguous() and not (tensor.is_floating_point() and bool(tensor.isinf().any())):
            continue
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        copy = tensor.detach().contiguous().clone()
        if attribute in owner._parameters:
            setattr(owner, attribute, torch.nn.Parameter(copy, requires_grad=False))
        else:
            setattr(owner, attribute, copy)
