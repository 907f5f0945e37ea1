"""Checks on the meta device, without weights or arithmetic, whether a model can take an input size."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from timmx.errors import ConfigurationError, ModelError
from timmx.model.build import UnknownArgumentError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

Size = tuple[int, int]
"""(height, width) in pixels."""

_SEARCH_S = 5.0
_STEPS = (8, 16, 32, 64, 128, 256)


def size_arguments(
    name: str, build: Callable[[dict[str, Any]], nn.Module], channels: int, size: Size, native: Size
) -> dict[str, Any]:
    """Arguments that build a model for inputs of `size`: `img_size`, or none if the model takes any size.

    Args:
        name: the model's name, for the message.
        build: builds the model on the meta device with extra arguments.
        channels: number of input channels.
        size: the requested size.
        native: the model's own size.

    Raises:
        ConfigurationError: the model cannot take this size; the hint has the nearest sizes that work.
    """
    trial = _Trial(build, channels)
    reason = trial.refusal(size)
    if not reason or trial.failure(native):
        # If the meta device cannot run the model's own size either, its failure says nothing about the size.
        return trial.arguments(size)
    near = _nearest(trial, size) or [native]
    sizes = " or ".join(f"--input-size {channels} {height} {width}" for height, width in near)
    raise ConfigurationError(
        f"{name} cannot take {size[0]} x {size[1]} pixels: {reason}",
        hint=f"use the nearest valid size: {sizes}",
    )


def failure_on_meta(model: Callable[[Any], Any], channels: int, size: Size) -> str:
    """Run a model once on the meta device; the reason why it fails, or an empty text."""
    import torch

    try:
        with torch.no_grad():
            model(torch.empty(2, channels, *size, device="meta"))
    except Exception as exc:  # operations raise any type
        return _reason(exc, size)
    return ""


class _Trial:
    """Builds and runs one model at several sizes; a model that takes any size is built once."""

    def __init__(self, build: Callable[[dict[str, Any]], nn.Module], channels: int) -> None:
        self._build = build
        self._channels = channels
        self._unsized: nn.Module | None = None
        self._patch: tuple[Size, Size] | None = None

    def arguments(self, size: Size) -> dict[str, Any]:
        """Arguments that build the model for this size, after a size was tried."""
        return {} if self._unsized is not None else {"img_size": size}

    @property
    def step(self) -> int:
        """Distance between patches in pixels; 1 if the model has none."""
        return max(self._patch[1]) if self._patch else 1

    def refusal(self, size: Size) -> str:
        """The reason why this size fails or ignores pixels, or an empty text."""
        return self._ignored(size) or self.failure(size) or self._ignored(size)

    def failure(self, size: Size) -> str:
        """The reason why this size fails, or an empty text."""
        model = self._unsized
        try:
            model = model or self._build({"img_size": size})
        except UnknownArgumentError as exc:
            if exc.argument != "img_size":
                raise
            model = self._unsized = self._build({})
        except ModelError as exc:
            return _reason(exc.__cause__ or exc, size)
        self._patch = self._patch or _patch(model, self._channels)
        return failure_on_meta(model, self._channels, size)

    def _ignored(self, size: Size) -> str:
        """timm's patch embeddings silently drop rows and columns that do not fill a patch."""
        if self._patch is None:
            return ""
        kernel, stride = self._patch
        if all((length - k) % s == 0 for length, k, s in zip(size, kernel, stride, strict=True)):
            return ""
        return f"patches of {kernel[0]} x {kernel[1]} pixels do not cover it, and timm would ignore the rest"


def _patch(model: nn.Module, channels: int) -> tuple[Size, Size] | None:
    """Kernel and stride of the convolution that cuts the input into patches, if it has no padding."""
    from torch import nn

    embed = getattr(model, "patch_embed", None)
    if not isinstance(embed, nn.Module) or getattr(embed, "dynamic_img_pad", False):
        return None
    for conv in embed.children():
        if type(conv) is nn.Conv2d and conv.in_channels == channels and not any(map(bool, conv.padding)):
            return (conv.kernel_size[0], conv.kernel_size[1]), (conv.stride[0], conv.stride[1])
    return None


def _nearest(trial: _Trial, size: Size) -> list[Size]:
    """The nearest smaller and larger sizes that work, searched for a few seconds."""
    deadline = time.monotonic() + _SEARCH_S
    sizes = []
    for down in (True, False):
        for candidate in _rounded(size, trial.step, down):
            if time.monotonic() > deadline:
                break
            if not trial.refusal(candidate):
                sizes.append(candidate if down else _smallest(trial, size, candidate, deadline))
                break
    return list(dict.fromkeys(sizes))


def _rounded(size: Size, patch: int, down: bool) -> Iterator[Size]:
    """The size rounded to increasingly coarse steps, each in the original ratio, then square."""
    side = (min if down else max)(size)
    seen = {size}
    for step in sorted({patch, *_STEPS} - {1}):
        for height, width in (size, (side, side)):
            candidate = (_round(height, step, down), _round(width, step, down))
            if min(candidate) > 0 and candidate not in seen:
                seen.add(candidate)
                yield candidate


def _round(length: int, step: int, down: bool) -> int:
    return length // step * step if down else -(-length // step) * step


def _smallest(trial: _Trial, low: Size, high: Size, deadline: float) -> Size:
    """Bisect, in multiples of 16, between a size that fails and a much larger one that works."""
    while max(high) > 1.25 * max(low) and time.monotonic() < deadline:
        middle = (_round((low[0] + high[0]) // 2, 16, False), _round((low[1] + high[1]) // 2, 16, False))
        if middle in (low, high):
            break
        if trial.refusal(middle):
            low = middle
        else:
            high = middle
    return high


def _reason(exc: BaseException, size: Size) -> str:
    """The model's own message if a user can use it, otherwise the usual cause."""
    text = first_line(exc)
    if isinstance(exc, AssertionError) and str(exc).strip():
        return text[0].lower() + text[1:]
    if any(words in text for words in ("Calculated padded input size", "too small", "smaller than")):
        return "it is too small for the model's strides and windows"
    if size[0] != size[1]:
        return "it is not square, or not a multiple of the model's patches and windows"
    return "it is not a multiple of the model's patches and windows"
