"""MIL's gathers and scatters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from timmx_coreml.mil.operations.registry import operation

_IOS17 = 7
_SCATTER_MODES = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operation()
def gather(
    x: Tensor,
    indices: Tensor,
    opset: int,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    axis %= x.ndim
    places = _places(indices, x.shape[axis], opset)
    if batch_dims > axis:
        raise ValueError(f"batch_dims {batch_dims} beyond the axis {axis}")
    sizes = [*x.shape[:axis], *places.shape[batch_dims:], *x.shape[axis + 1 :]]
    if not batch_dims:
        return x.index_select(axis, places.flatten()).reshape(sizes)
    # One row per batch element, each with its own indices.
    rows = x.reshape(-1, *x.shape[batch_dims:])
    chosen = places.reshape(len(rows), -1)
    results = [
        row.index_select(axis - batch_dims, row_indices)
        for row, row_indices in zip(rows, chosen, strict=True)
    ]
    return torch.stack(results).reshape(sizes)


@operation()
def gather_along_axis(
    x: Tensor, indices: Tensor, opset: int, axis: int = 0, validate_indices: bool = False
) -> Tensor:
    return torch.take_along_dim(x, _places(indices, x.shape[axis], opset), axis)


@operation()
def gather_nd(
    x: Tensor, indices: Tensor, opset: int, batch_dims: int = 0, validate_indices: bool = False
) -> Tensor:
    depth = indices.shape[-1]
    batch = x.shape[:batch_dims]
    rows = x.reshape(-1, *x.shape[batch_dims:])
    row_indices = indices.reshape(len(rows), *indices.shape[batch_dims:])
    results = []
    for row, chosen in zip(rows, row_indices, strict=True):
        places = [_places(chosen[..., i], row.shape[i], opset) for i in range(depth)]
        results.append(row[tuple(places)])
    return torch.stack(results).reshape([*batch, *results[0].shape])


@operation(result="data", alike=("data", "updates"))
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str,
    opset: int,
    axis: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    axis %= data.ndim
    places = _places(indices, data.shape[axis], opset)
    along = places.reshape(-1, *[1] * (data.ndim - axis - 1)).expand(updates.shape)
    return _scatter(data, along, updates, axis, mode)


@operation(result="data", alike=("data", "updates"))
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str,
    opset: int,
    axis: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    return _scatter(data, _places(indices, data.shape[axis], opset), updates, axis, mode)


@operation(result="data", alike=("data", "updates"))
def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str,
    opset: int,
    validate_indices: bool = False,
) -> Tensor:
    depth = indices.shape[-1]
    rest = math.prod(data.shape[depth:])
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i in range(depth):
        flat = flat * data.shape[i] + _places(indices[..., i], data.shape[i], opset)
    along = flat.reshape(-1, 1).expand(-1, rest)
    rows = _scatter(data.reshape(-1, rest), along, updates.reshape(-1, rest), 0, mode)
    return rows.reshape(data.shape)


def _places(indices: Tensor, size: int, opset: int) -> Tensor:
    """Convert indices to nonnegative ones; refuse those that MIL leaves undefined.

    Before iOS 17 a negative index counts from the end; since then it is out of bounds.
    """
    if indices.numel() == 0:
        return indices
    low, high = (int(bound) for bound in torch.aminmax(indices))
    if high >= size or low < (0 if opset >= _IOS17 else -size):
        raise IndexError(f"indices {low} to {high} into {size} elements, which is undefined in this opset")
    return torch.where(indices < 0, indices + size, indices)


def _scatter(data: Tensor, along: Tensor, updates: Tensor, axis: int, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, along, updates)
    if mode in _SCATTER_MODES:
        return data.scatter_reduce(axis, along, updates, _SCATTER_MODES[mode])
    if mode == "sub":
        return data.scatter_reduce(axis, along, -updates, "sum")
    if mode == "div":
        product = torch.ones_like(data).scatter_reduce(axis, along, updates, "prod")
        return data / product
    raise NotImplementedError(f"mode {mode!r}")
