"""Layers that reduce or sort along axes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from timmx_coreml.neural_network.layer import Layer, Step, translates
from timmx_coreml.schema import schema

Reduce = Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]
"""Takes a blob and axes, returns the blob with those axes of size 1."""


def _product(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


_REDUCTIONS: dict[str, Reduce] = {
    "reduceSum": lambda x, axes: x.sum(axes, keepdim=True),
    "reduceMean": lambda x, axes: x.mean(axes, keepdim=True),
    "reduceMax": lambda x, axes: x.amax(axes, keepdim=True),
    "reduceMin": lambda x, axes: x.amin(axes, keepdim=True),
    "reduceProd": _product,
    "reduceL1": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "reduceL2": lambda x, axes: x.square().sum(axes, keepdim=True).sqrt(),
    "reduceSumSquare": lambda x, axes: x.square().sum(axes, keepdim=True),
    "reduceLogSum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "reduceLogSumExp": lambda x, axes: torch.logsumexp(x, axes, keepdim=True),
}


@translates(*_REDUCTIONS)
def _reduce(layer: Layer) -> Step:
    function = _REDUCTIONS[layer.kind]
    axes = tuple(int(axis) for axis in layer.params.axes)
    reduce_all, keep = bool(layer.params.reduceAll), bool(layer.params.keepDims)
    if not axes and not reduce_all:
        raise layer.damaged("it has no axes")

    def reduce(x: torch.Tensor) -> torch.Tensor:
        every = tuple(range(x.ndim)) if reduce_all else tuple(axis % x.ndim for axis in _check_axes(axes, x))
        y = function(x, every)
        return y if keep else y.squeeze(every)

    return reduce


def _check_axes(axes: tuple[int, ...], x: torch.Tensor) -> tuple[int, ...]:
    for axis in axes:
        if not -x.ndim <= axis < x.ndim:
            raise ValueError(f"axis {axis} does not exist")
    return axes


@translates("reduce")
def _old_reduce(layer: Layer) -> Step:
    """The older reductions, over named axes; the rank stays the same."""
    params = layer.params
    names = schema("NeuralNetwork_pb2").ReduceLayerParams
    mode = names.ReduceOperation.Name(params.mode)
    named = {"CHW": (-3, -2, -1), "HW": (-2, -1), "C": (-3,), "H": (-2,), "W": (-1,)}
    axes = named[names.ReduceAxis.Name(params.axis)]
    if mode == "ARGMAX":
        if len(axes) != 1:
            raise layer.damaged(f"it has {len(axes)} axes for ARGMAX instead of 1")
        return lambda x: x.argmax(axes[0], keepdim=True).float()
    if mode == "LOGSUM":
        epsilon = float(params.epsilon) or 1e-6
        return lambda x: (x + epsilon).log().sum(axes, keepdim=True)
    function = _REDUCTIONS[
        {"AVG": "reduceMean", "SUMSQUARE": "reduceSumSquare"}.get(mode, f"reduce{mode.capitalize()}")
    ]
    return lambda x: function(x, axes)


@translates("argMax", "argMin")
def _arg(layer: Layer) -> Step:
    axis, keep = int(layer.params.axis), not layer.params.removeDim
    function = torch.argmax if layer.kind == "argMax" else torch.argmin
    return lambda x: function(x, axis, keepdim=keep).float()


@translates("topK", inputs=(1, 2), outputs=2)
def _top_k(layer: Layer) -> Step:
    axis, stored, bottom = int(layer.params.axis), int(layer.params.K), bool(layer.params.useBottomK)

    def top(x: torch.Tensor, count: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        k = stored if count is None else int(count.reshape(()))
        values, indices = torch.topk(x, k, axis, largest=not bottom)
        return values, indices.float()

    return top


@translates("argSort")
def _argsort(layer: Layer) -> Step:
    axis, descending = int(layer.params.axis), bool(layer.params.descending)
    return lambda x: torch.argsort(x, dim=axis, descending=descending, stable=True).float()


@translates("cumSum", inputs=(1, 2))
def _cumulative_sum(layer: Layer) -> Step:
    params = layer.params
    stored, exclusive, backwards = int(params.axis), bool(params.excludeFinalSum), bool(params.reverse)

    def cumulate(x: torch.Tensor, axis_blob: torch.Tensor | None = None) -> torch.Tensor:
        axis = stored if axis_blob is None else int(axis_blob.reshape(()))
        y = x.flip(axis) if backwards else x
        if exclusive:
            y = torch.cat(
                (torch.zeros_like(y.narrow(axis, 0, 1)), y.narrow(axis, 0, y.shape[axis] - 1)), axis
            )
        y = y.cumsum(axis)
        return y.flip(axis) if backwards else y

    return cumulate
