"""Layers that create a blob from constants or from a shape."""

from __future__ import annotations

import math

import torch

from timmx_coreml.neural_network.layer import Layer, Step, translates


def shape_of(blob: torch.Tensor) -> list[int]:
    """Return the shape that a blob contains."""
    return [int(size) for size in blob.flatten()]


@translates("loadConstant", "loadConstantND", inputs=(0,))
def _load_constant(layer: Layer) -> Step:
    shape = [int(size) for size in layer.params.shape]
    if layer.kind == "loadConstant" and len(shape) != 3:
        raise layer.damaged(f"its shape has {len(shape)} entries instead of 3")
    values = layer.weights("data", shape)
    if layer.kind == "loadConstant":
        values = values[None, None]  # [1, 1, C, H, W]
    return lambda: values


@translates("fillStatic", inputs=(0,))
def _fill_static(layer: Layer) -> Step:
    shape = [int(size) for size in layer.params.targetShape]
    value = float(layer.params.value)
    return lambda: torch.full(shape, value)


@translates("fillLike")
def _fill_like(layer: Layer) -> Step:
    value = float(layer.params.value)
    return lambda x: torch.full_like(x, value)


@translates("fillDynamic")
def _fill_dynamic(layer: Layer) -> Step:
    value = float(layer.params.value)
    return lambda shape: torch.full(shape_of(shape), value)


@translates("rangeStatic", inputs=(0,))
def _range_static(layer: Layer) -> Step:
    params = layer.params
    end, start, step = float(params.endValue), float(params.startValue), float(params.stepSizeValue)
    return lambda: _arange(start, end, step)


@translates("rangeDynamic", inputs=(1, 2, 3))
def _range_dynamic(layer: Layer) -> Step:
    start, step = float(layer.params.startValue), float(layer.params.stepSizeValue)

    def count(end: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        first = float(rest[0].reshape(())) if rest else start
        return _arange(first, float(end.reshape(())), float(rest[1].reshape(())) if len(rest) > 1 else step)

    return count


def _arange(start: float, end: float, step: float) -> torch.Tensor:
    """Like numpy's arange: start + i * step, before end."""
    if step == 0:
        raise ValueError("a range cannot have the step 0")
    return start + step * torch.arange(max(0, math.ceil((end - start) / step)), dtype=torch.float32)


@translates("getShape")
def _get_shape(layer: Layer) -> Step:
    return lambda x: torch.tensor(x.shape, dtype=torch.float32)


@translates("broadcastToStatic")
def _broadcast_static(layer: Layer) -> Step:
    shape = [int(size) for size in layer.params.targetShape]
    return lambda x: x.broadcast_to(shape)


@translates("broadcastToLike", inputs=(2,))
def _broadcast_like(layer: Layer) -> Step:
    return lambda x, other: x.broadcast_to(other.shape)


@translates("broadcastToDynamic", inputs=(2,))
def _broadcast_dynamic(layer: Layer) -> Step:
    return lambda x, shape: x.broadcast_to(shape_of(shape))
