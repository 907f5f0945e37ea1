"""Layers that slice along axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from timmx_coreml.neural_network.constants import shape_of
from timmx_coreml.neural_network.layer import Layer, Step, translates
from timmx_coreml.schema import schema

if TYPE_CHECKING:
    from collections.abc import Sequence


@translates("slice")
def _slice(layer: Layer) -> Step:
    params = layer.params
    axis_name = schema("NeuralNetwork_pb2").SliceLayerParams.SliceAxis.Name(params.axis)
    axis = {"CHANNEL_AXIS": -3, "HEIGHT_AXIS": -2, "WIDTH_AXIS": -1}[axis_name]
    start, end, step = int(params.startIndex), int(params.endIndex), int(params.stride)
    if step < 1:
        raise layer.damaged(f"its stride is {step}")

    def take(x: torch.Tensor) -> torch.Tensor:
        size = x.shape[axis]
        first, last = (index + size if index < 0 else index for index in (start, end))
        if last > size or first < 0:
            raise layer.unsupported(
                f"it takes {start} to {end} of an axis of size {size}, and what lies beyond is not documented"
            )
        if last <= first:
            raise ValueError(f"{start} to {end} is empty")
        part = x.narrow(axis, first, last - first)
        return part if step == 1 else part.index_select(axis, torch.arange(0, last - first, step))

    return take


@translates("sliceStatic")
def _slice_static(layer: Layer) -> Step:
    params = layer.params
    begin, end = [int(index) for index in params.beginIds], [int(index) for index in params.endIds]
    slices = _Slices(layer)
    if len(end) != len(begin):
        raise layer.damaged(f"it has {len(begin)} begins and {len(end)} ends")
    return lambda x: slices.take(x, begin, end)


@translates("sliceDynamic", inputs=(2, 3))
def _slice_dynamic(layer: Layer) -> Step:
    stored_end = [int(index) for index in layer.params.endIds]
    slices = _Slices(layer)

    def take(x: torch.Tensor, begin: torch.Tensor, end: torch.Tensor | None = None) -> torch.Tensor:
        return slices.take(x, shape_of(begin), stored_end if end is None else shape_of(end))

    return take


class _Slices:
    """Slices like numpy, axis by axis; a masked bound is ignored, and a squeezed axis is indexed by its begin."""

    def __init__(self, layer: Layer) -> None:
        params = layer.params
        self._strides = [int(stride) for stride in params.strides]
        self._begin_masks, self._end_masks = list(params.beginMasks), list(params.endMasks)
        self._squeeze_masks = list(params.squeezeMasks)
        if 0 in self._strides:
            raise layer.damaged("a stride is 0")

    def take(self, x: torch.Tensor, begin: Sequence[int], end: Sequence[int]) -> torch.Tensor:
        rank = x.ndim
        if not rank == len(begin) == len(end):
            raise ValueError(f"there are {len(begin)} begins and {len(end)} ends for {rank} axes")
        strides = _per_axis(self._strides, 1, rank)
        begin_masks, end_masks = (
            _per_axis(masks, False, rank) for masks in (self._begin_masks, self._end_masks)
        )
        squeezed = [axis for axis, mask in enumerate(_per_axis(self._squeeze_masks, False, rank)) if mask]
        for axis, size in enumerate(x.shape):
            first = None if begin_masks[axis] else begin[axis]
            if axis in squeezed:
                index = first or 0
                x = x.narrow(axis, index + size if index < 0 else index, 1)
                continue
            last = None if end_masks[axis] else end[axis]
            start, stop, step = slice(first, last, strides[axis]).indices(size)
            if step > 0:
                x = x[(*[slice(None)] * axis, slice(start, stop, step))]
            else:  # torch has no negative steps
                x = x.index_select(axis, torch.tensor(range(start, stop, step), dtype=torch.long))
        return x.squeeze(squeezed) if squeezed else x


def _per_axis(values: Sequence[int], default: int, rank: int) -> Sequence[int]:
    """Return one value per axis. coremltools' builder writes its defaults five times, whatever the rank."""
    if len(values) == rank:
        return values
    if not values or (len(values) > rank and len(set(values)) == 1):
        return [values[0] if values else default] * rank
    raise ValueError(f"there are {len(values)} entries for {rank} axes")


@translates("sliceBySize", inputs=(2,))
def _slice_by_size(layer: Layer) -> Step:
    axis, size = int(layer.params.axis), int(layer.params.size)

    def take(x: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
        start = int(begin.reshape(()))
        return x.narrow(axis, start + x.shape[axis] if start < 0 else start, size)

    return take
