"""Constants as litert-torch 0.10 can take them in without a mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


def own_constants(module: torch.fx.GraphModule) -> None:
    """Give every constant memory of its own where litert-torch's `inline_consts` would trip over it.

    It copies one whose elements do not lie in order and remembers the copy by its address; the next copy, at the same
    address again, is taken for the same constant: eva02 gets the sines of one block for the cosines of all. And it
    replaces infinities by the largest number in place, which would reach the model itself.
    """
    tensors: Iterable[tuple[str, torch.Tensor]] = (*module.named_parameters(), *module.named_buffers())
    for name, tensor in tensors:
        if tensor.is_contiguous() and not (tensor.is_floating_point() and bool(tensor.isinf().any())):
            continue
        path, _, attribute = name.rpartition(".")
        holder = module.get_submodule(path)
        own = tensor.detach().contiguous().clone()
        if attribute in holder._parameters:
            setattr(holder, attribute, torch.nn.Parameter(own, requires_grad=False))
        else:
            setattr(holder, attribute, own)
