"""Layers that resize images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from timmx_coreml.neural_network.layer import Layer, Step, translates
from timmx_coreml.schema import schema

Grid = Callable[[int, int], torch.Tensor]
"""Takes the input and output size of an axis, returns the sampled positions in input pixels."""


def _align_corners(size: int, count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float64) * ((size - 1) / (count - 1) if count > 1 else 0.0)


def _align_corners_centered(size: int, count: int) -> torch.Tensor:
    return torch.tensor([(size - 1) / 2], dtype=torch.float64) if count == 1 else _align_corners(size, count)


def _from_first(size: int, count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float64) * (size / count)


def _half_pixel(size: int, count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (size / count) - 0.5


def _roi_align(size: int, count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) * (max(1, size - 1) / count)


_UPSAMPLE: dict[str, Grid] = {
    "DEFAULT": _from_first,
    "ALIGN_CORNERS_TRUE": _align_corners,
    "ALIGN_CORNERS_FALSE": _half_pixel,
}
"""The modes of `UpsampleLayerParams`, as documented by coremltools' `add_upsample`."""

_RESIZE: dict[str, Grid] = {
    "STRICT_ALIGN_ENDPOINTS_MODE": _align_corners,
    "ALIGN_ENDPOINTS_MODE": _align_corners_centered,
    "UPSAMPLE_MODE": _from_first,
    "ROI_ALIGN_MODE": _roi_align,
}
"""The modes of `SamplingMode` in Apple's NeuralNetwork.proto."""


@translates("upsample")
def _upsample(layer: Layer) -> Step:
    params = layer.params
    names = schema("NeuralNetwork_pb2").UpsampleLayerParams
    mode = names.InterpolationMode.Name(params.mode)
    linear = names.LinearUpsampleMode.Name(params.linearUpsampleMode)
    whole, fractional = list(params.scalingFactor), list(params.fractionalScalingFactor)
    if whole and fractional:
        raise layer.damaged("it has both integer and fractional scaling factors")
    factors = whole or fractional or [1, 1]
    if len(factors) != 2 or min(factors) <= 0:
        raise layer.damaged(f"its scaling factors are {factors}")
    if mode == "NN":
        if fractional or linear != "DEFAULT":
            raise layer.damaged(
                "it has fractional factors or a linear mode for nearest-neighbor interpolation"
            )
        down, across = int(factors[0]), int(factors[1])
        return lambda x: x.repeat_interleave(down, -2).repeat_interleave(across, -1)
    if fractional and linear == "DEFAULT":
        raise layer.damaged("its fractional scaling factors have no mode of aligning corners")
    grid = _UPSAMPLE[linear]

    def upsample(x: torch.Tensor) -> torch.Tensor:
        height, width = (_scaled(size, factor) for size, factor in zip(x.shape[-2:], factors, strict=True))
        return _bilinear(x, grid(x.shape[-2], height), grid(x.shape[-1], width))

    return upsample


def _scaled(size: int, factor: float) -> int:
    """Return floor(size * factor) in float32, the type of a stored factor: 7 * 11/7 is 11, in float64 10.9999998."""
    return math.floor(torch.tensor(float(factor), dtype=torch.float32) * size)


@translates("resizeBilinear")
def _resize_bilinear(layer: Layer) -> Step:
    height, width = layer.pair("targetSize", 1)
    if height < 1 or width < 1:
        raise layer.damaged(f"its target size is {height} x {width}")
    modes = schema("NeuralNetwork_pb2").SamplingMode.Method
    grid = _RESIZE[modes.Name(layer.params.mode.samplingMethod)]
    return lambda x: _bilinear(x, grid(x.shape[-2], height), grid(x.shape[-1], width))


def _bilinear(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    for axis, points in ((-2, rows), (-1, columns)):
        last = x.shape[axis] - 1
        points = points.clamp(0, last)
        before = points.floor().long()
        after = (before + 1).clamp(max=last)
        share = (points - before).float()
        share = share[:, None] if axis == -2 else share
        x = x.index_select(axis, before) * (1 - share) + x.index_select(axis, after) * share
    return x
