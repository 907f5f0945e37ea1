"""The format's padding rules for the height and width of convolutions and pools."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own customary name

from timmx_coreml.schema import schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx_coreml.neural_network.layer import Layer

Pads = tuple[int, int, int, int]
"""Top, bottom, left, right."""


def same_pads(
    size: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int], top_left_heavy: bool
) -> Pads:
    """Return the padding that gives ceil(size / stride) windows.

    Args:
        size: (height, width) before padding.
        kernel: extent of the window, dilation included.
        stride: the window's strides.
        top_left_heavy: whether an odd element is padded at the top or left.

    Source: `SamePadding` in Apple's NeuralNetwork.proto.
    """
    pads = []
    for extent, window, step in zip(size, kernel, stride, strict=True):
        count = -(-extent // step)
        total = max(0, (count - 1) * step + window - extent)
        less, more = total // 2, total - total // 2
        pads += [more, less] if top_left_heavy else [less, more]
    return pads[0], pads[1], pads[2], pads[3]


def padding_rule(
    layer: Layer, padding: str | None, kernel: tuple[int, int], stride: tuple[int, int]
) -> Callable[[tuple[int, ...]], Pads]:
    """Return a layer's `valid` or `same` padding as a function of the input's (height, width)."""
    if padding == "valid":
        fixed = layer.borders(layer.params.valid.paddingAmounts)
        return lambda size: fixed
    if padding == "same":
        modes = schema("NeuralNetwork_pb2").SamePadding.SamePaddingMode
        heavy = modes.Name(layer.params.same.asymmetryMode) == "TOP_LEFT_HEAVY"
        return lambda size: same_pads(size, kernel, stride, heavy)
    raise layer.damaged("it has no padding type")


def pad(x: torch.Tensor, pads: Pads, value: float = 0.0) -> torch.Tensor:
    """Pad the last two axes with a value; negative amounts crop."""
    top, bottom, left, right = pads
    return F.pad(x, (left, right, top, bottom), value=value) if any(pads) else x


def as_images(x: torch.Tensor, min_rank: int = 4) -> torch.Tensor:
    """Reshape (..., C, H, W) to (N, C, H, W): the format treats all axes before the last three as batch.

    Raises:
        ValueError: there are fewer axes than `min_rank`.
    """
    if x.ndim < min_rank:
        raise ValueError(f"at least {min_rank} axes are needed")
    return x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:])


def restore_batch(images: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Reshape (N, C, H, W) to the batch axes of x."""
    return images if x.ndim == 4 else images.reshape(*x.shape[:-3], *images.shape[1:])
