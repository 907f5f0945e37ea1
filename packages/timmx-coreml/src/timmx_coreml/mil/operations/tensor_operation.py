"""MIL's operations that join, repeat, pad, fill and sort tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from timmx_coreml.mil.operations.convolution import for_torch
from timmx_coreml.mil.operations.registry import Ints, Tensors, operation


@operation(raw=True)
def identity(x: Tensor) -> Tensor:
    return x


@operation(result="values", raw=True, alike=("values",))
def concat(values: Tensors, axis: int, interleave: bool = False) -> Tensor:
    # A scalar counts as a vector of one element: coremltools concatenates sizes that way.
    values = [value.reshape(1) if value.ndim == 0 else value for value in values]
    if not interleave:
        return torch.cat(values, axis)
    axis %= values[0].ndim
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


@operation(result="values", raw=True, alike=("values",))
def stack(values: Tensors, axis: int) -> Tensor:
    return torch.stack(values, axis)


@operation(raw=True)
def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None
) -> tuple[Tensor, ...]:
    if split_sizes is None:
        if num_splits is None or x.shape[axis] % num_splits:
            raise ValueError(f"{x.shape[axis]} elements do not split into {num_splits} parts")
        split_sizes = [x.shape[axis] // num_splits] * num_splits
    return torch.split(x, split_sizes, axis)


@operation(raw=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    if len(reps) != x.ndim:
        raise ValueError(f"{len(reps)} repetitions for {x.ndim} dimensions")
    return x.repeat(*reps)


@operation(raw=True)
def pad(x: Tensor, pad: Ints, mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    if min(pad, default=0) < 0:
        raise NotImplementedError("a negative pad")
    if mode == "constant":
        return functional.pad(x, for_torch(pad), value=constant_val)
    if mode not in ("reflect", "replicate"):
        raise NotImplementedError(f"mode {mode!r}")
    for index, axis in enumerate(range(x.ndim - len(pad) // 2, x.ndim)):
        size, before, after = x.shape[axis], pad[2 * index], pad[2 * index + 1]
        if max(before, after) > (size - 1 if mode == "reflect" else size):
            raise ValueError(f"{mode} pads {max(before, after)} elements of {size}")
        if before or after:
            positions = torch.arange(-before, size + after)
            inside = reflect(positions, size) if mode == "reflect" else positions.clamp(0, size - 1)
            x = x.index_select(axis, inside)
    return x


def reflect(positions: Tensor, size: int) -> Tensor:
    """Reflect positions outside 0 to size - 1 at the ends, without repeating the end elements."""
    if size == 1:
        return torch.zeros_like(positions)
    folded = positions.remainder(2 * (size - 1))
    return torch.minimum(folded, 2 * (size - 1) - folded)


@operation(result="value")
def fill(shape: Ints, value: Tensor | None = None) -> Tensor:
    return torch.zeros(shape) if value is None else torch.full(shape, value.item(), dtype=value.dtype)


@operation(result="value")
def fill_like(ref_tensor: Tensor, value: Tensor | None = None) -> Tensor:
    return fill(list(ref_tensor.shape), value)


@operation(result="start", alike=("start", "end", "step"))
def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@operation(result=torch.int32)
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int64)


@operation(result=torch.int32)
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x)


@operation(result="on_value")
def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
) -> Tensor:
    axis %= indices.ndim + 1
    sizes = [1] * (indices.ndim + 1)
    sizes[axis] = one_hot_vector_size
    hot = indices.unsqueeze(axis) == torch.arange(one_hot_vector_size).reshape(sizes)
    on = torch.ones(()) if on_value is None else on_value
    return torch.where(hot, on, torch.zeros((), dtype=on.dtype) if off_value is None else off_value)


@operation(raw=True)
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    rows, columns = x.shape[-2:]
    below = torch.arange(rows).unsqueeze(1) - torch.arange(columns)
    mask = torch.ones(rows, columns, dtype=torch.bool)
    mask = mask if lower < 0 else mask & (below <= lower)
    mask = mask if upper < 0 else mask & (-below <= upper)
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype))


@operation()
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    x = x.flip(axis) if reverse else x
    if exclusive:
        x = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    sums = torch.cumsum(x, axis)
    return sums.flip(axis) if reverse else sums


@operation(result=torch.int32)
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    return torch.argsort(x, stable=True, dim=axis, descending=not ascending)


@operation(result=("x", "output_indices_dtype"))
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    order = torch.argsort(x, stable=True, dim=axis, descending=not ascending)
    order = order if k == -1 else order.narrow(axis, 0, k)
    values = torch.take_along_dim(x, order, axis)
    return (values, order) if return_indices else (values,)
