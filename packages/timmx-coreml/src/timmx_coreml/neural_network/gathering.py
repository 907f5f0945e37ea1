"""Layers that read and write at the indices in another blob."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from timmx_coreml.neural_network.layer import Layer, Step, translates
from timmx_coreml.schema import schema

if TYPE_CHECKING:
    from collections.abc import Callable


@translates("gather", inputs=(2,))
def _gather(layer: Layer) -> Step:
    axis = int(layer.params.axis)

    def gather(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        place = axis + x.ndim if axis < 0 else axis
        positions = _from_start(indices, x.shape[place])
        result = x.index_select(place, positions.flatten())
        return result.reshape(*x.shape[:place], *indices.shape, *x.shape[place + 1 :])

    return gather


@translates("gatherND", inputs=(2,))
def _gather_nd(layer: Layer) -> Step:
    return lambda x, indices: x[_tuple_index(x, indices)]


@translates("gatherAlongAxis", inputs=(2,))
def _gather_along_axis(layer: Layer) -> Step:
    axis = int(layer.params.axis)
    return lambda x, indices: torch.take_along_dim(x, _from_start(indices, x.shape[axis]), axis)


@translates("scatter", "scatterND", "scatterAlongAxis", inputs=(3,))
def _scatter(layer: Layer) -> Step:
    """Copy the first input and apply the updates in the third at the indices in the second, one by one."""
    combine = _combination(layer)
    axis = int(layer.params.axis) if layer.kind != "scatterND" else 0

    def scatter(x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        place = axis + x.ndim if axis < 0 else axis
        index: Any
        if layer.kind == "scatterND":
            index = tuple(part.numpy() for part in _tuple_index(x, indices))
        elif layer.kind == "scatter":
            index = (*[slice(None)] * place, _from_start(indices, x.shape[place]).numpy())
        else:
            grid = np.indices(tuple(indices.shape))
            index = tuple(
                _from_start(indices, x.shape[place]).numpy() if i == place else grid[i] for i in range(x.ndim)
            )
        y = x.numpy().copy()
        if y[index].shape != tuple(updates.shape):
            raise ValueError(f"the updates should be {y[index].shape}")
        combine(y, index, updates.numpy())
        return torch.from_numpy(y)

    return scatter


def _combination(layer: Layer) -> Callable[[Any, Any, Any], None]:
    mode = schema("NeuralNetwork_pb2").ScatterMode.Name(layer.params.mode)
    functions: dict[str, Callable[[Any, Any, Any], None]] = {
        "SCATTER_UPDATE": _assign,
        "SCATTER_ADD": np.add.at,
        "SCATTER_SUB": np.subtract.at,
        "SCATTER_MUL": np.multiply.at,
        "SCATTER_DIV": np.divide.at,
        "SCATTER_MAX": np.maximum.at,
        "SCATTER_MIN": np.minimum.at,
    }
    return functions[mode]


def _assign(array: Any, index: Any, values: Any) -> None:
    array[index] = values


def _from_start(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Convert indices to nonnegative integers; negative ones count from the end."""
    positions = indices.long()
    positions = torch.where(positions < 0, positions + size, positions)
    if positions.numel() and (int(positions.min()) < 0 or int(positions.max()) >= size):
        raise ValueError(f"an index lies outside an axis of size {size}")
    return positions


def _tuple_index(x: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return one index per leading axis of x from the last axis of the indices."""
    depth = indices.shape[-1]
    if depth > x.ndim:
        raise ValueError(f"the indices name {depth} axes")
    return tuple(_from_start(indices[..., axis], x.shape[axis]) for axis in range(depth))


@translates("oneHot", inputs=(1, 2))
def _one_hot(layer: Layer) -> Step:
    params = layer.params
    stored, axis = int(params.oneHotVectorSize), int(params.axis)
    on, off = float(params.onValue), float(params.offValue)
    if len(layer.inputs) == 1 and stored < 1:
        raise layer.damaged(f"its vectors have the size {stored}")

    def one_hot(indices: torch.Tensor, size: torch.Tensor | None = None) -> torch.Tensor:
        count = stored if size is None else int(size.reshape(()))
        hit = indices.long()[..., None] == torch.arange(count)
        return torch.where(hit, on, off).movedim(-1, axis)

    return one_hot


@translates("whereNonZero")
def _where_non_zero(layer: Layer) -> Step:
    return lambda x: x.nonzero().float()
