"""Operations on tensors of many dimensions, computed with neighboring dimensions merged.

Each function here merges dimensions of its inputs, computes, and splits them again in its output. Between two such
functions the reshapes follow each other and can be merged.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

aten = torch.ops.aten


def rank_decompositions(limit: int) -> dict[Any, Callable[..., Any]]:
    """Decompositions of operations on tensors with more than `limit` dimensions.

    Operations whose dimensions cannot be merged, such as a sum that broadcasts every second one, are not decomposed.

    Args:
        limit: the largest number of dimensions that the format supports, at least 4.
    """
    pointwise = "add.Tensor sub.Tensor mul.Tensor div.Tensor add.Scalar sub.Scalar mul.Scalar div.Scalar relu.default "
    pointwise += (
        "gelu.default silu.default sigmoid.default tanh.default exp.default neg.default rsqrt.default "
    )
    pointwise += "sqrt.default pow.Tensor_Scalar clamp.default hardswish.default maximum.default"
    reductions = "mean.dim sum.dim_IntList amax.default amin.default"
    along = "select.int slice.Tensor unbind.int split.Tensor split_with_sizes.default softmax.int _softmax.default"
    table = (
        {_op(name): _pointwise(_op(name)) for name in pointwise.split()}
        | {_op(name): _reduction(_op(name)) for name in reductions.split()}
        | {_op(name): _along(_op(name)) for name in along.split()}
        | {op: _joining(op, stack) for op, stack in ((aten.cat.default, False), (aten.stack.default, True))}
        | {
            aten.permute.default: _permute(limit),
            aten.transpose.int: _transpose(limit),
            aten.unsqueeze.default: _unsqueeze,
            aten.squeeze.dim: _squeeze,
            aten.squeeze.dims: _squeeze,
            aten.expand.default: _expand,
            aten.linear.default: _linear,
            aten.layer_norm.default: _layer_norm,
            aten.matmul.default: _matmul,
        }
    )
    return {op: _above(limit, op, function) for op, function in table.items()}


def _above(limit: int, op: torch._ops.OpOverload, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, applied only if a tensor has more than `limit` dimensions."""

    def guarded(*arguments: Any, **kwargs: Any) -> Any:
        items = arguments[0] if isinstance(arguments[0], list | tuple) else arguments
        rank = max(item.ndim for item in items if isinstance(item, torch.Tensor))
        if op in (aten.stack.default, aten.unsqueeze.default):
            rank += 1
        elif op is aten.expand.default:
            rank = len(arguments[1])
        return NotImplemented if rank <= limit else function(*arguments, **kwargs)

    return guarded


def _op(name: str) -> torch._ops.OpOverload:
    packet, overload = name.split(".")
    op: torch._ops.OpOverload = getattr(getattr(aten, packet), overload)
    return op


def _permute(limit: int) -> Callable[..., Any]:
    """Permutation in one step if at most `limit` groups of dimensions move, otherwise in several steps."""

    def function(x: torch.Tensor, dims: Sequence[int]) -> Any:
        order = [dim % x.ndim for dim in dims]
        shape = [x.shape[dim] for dim in order]
        moving = [dim for dim in order if not _is_one(x.shape[dim])]
        rank = {dim: index for index, dim in enumerate(sorted(moving))}
        sizes = [x.shape[dim] for dim in sorted(moving)]
        for step in permutation_steps(tuple(rank[dim] for dim in moving), limit):
            groups = _groups(step)
            merged = [math.prod(sizes[dim] for dim in group) for group in sorted(groups)]
            places = sorted(groups)
            x = x.reshape(merged).permute([places.index(group) for group in groups])
            sizes = [sizes[dim] for dim in step]
        return x.reshape(shape)

    return function


def permutation_steps(order: tuple[int, ...], limit: int) -> tuple[tuple[int, ...], ...]:
    """Permutations that give `order` in sequence, each with at most `limit` groups of neighboring dimensions."""
    groups = _groups(order)
    if len(groups) <= limit:
        return (order,)
    # Move the second group behind the first: at most 4 groups in this step, and one group less afterwards.
    step = [dim for dim in range(len(order)) if dim not in groups[1]]
    place = step.index(groups[0][-1]) + 1
    step[place:place] = groups[1]
    return (tuple(step), *permutation_steps(tuple(step.index(dim) for dim in order), limit))


def _groups(order: Sequence[int]) -> list[tuple[int, ...]]:
    """Runs of dimensions that remain neighbors."""
    groups: list[tuple[int, ...]] = []
    for dim in order:
        if groups and groups[-1][-1] == dim - 1:
            groups[-1] = (*groups[-1], dim)
        else:
            groups.append((dim,))
    return groups


def _transpose(limit: int) -> Callable[..., Any]:
    permute = _permute(limit)

    def function(x: torch.Tensor, dim0: int, dim1: int) -> Any:
        order = list(range(x.ndim))
        order[dim0], order[dim1] = order[dim1], order[dim0]
        return permute(x, order)

    return function


def _unsqueeze(x: torch.Tensor, dim: int) -> Any:
    dim %= x.ndim + 1
    return x.reshape([*x.shape[:dim], 1, *x.shape[dim:]])


def _squeeze(x: torch.Tensor, dim: int | Sequence[int]) -> Any:
    dims = {index % x.ndim for index in ([dim] if isinstance(dim, int) else dim) if _is_one(x.shape[index])}
    return x.reshape([size for index, size in enumerate(x.shape) if index not in dims])


def _along(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """An operation along one dimension, whose outputs differ only in that dimension or lack it."""
    place = 2 if op in (aten.split.Tensor, aten.split_with_sizes.default) else 1

    def function(x: torch.Tensor, *arguments: Any, **kwargs: Any) -> Any:
        rest = list(arguments)
        rest += [0] * (place - len(rest))
        dim = rest[place - 1] % x.ndim
        rest[place - 1] = 1
        result = op(_around(x, dim), *rest, **kwargs)
        before, after = list(x.shape[:dim]), list(x.shape[dim + 1 :])

        def split(part: torch.Tensor) -> torch.Tensor:
            middle = [part.shape[1]] if part.ndim == (3 if after else 2) else []
            return part.reshape([*before, *middle, *after])

        return split(result) if isinstance(result, torch.Tensor) else type(result)(map(split, result))

    return function


def _joining(op: torch._ops.OpOverload, stack: bool) -> Callable[..., Any]:
    def function(tensors: Sequence[torch.Tensor], dim: int = 0) -> Any:
        first = tensors[0]
        ndim = first.ndim + stack
        dim %= ndim
        before, after = first.shape[:dim], first.shape[dim if stack else dim + 1 :]
        parts = [
            part.reshape([math.prod(before), 1 if stack else part.shape[dim], math.prod(after)])
            for part in tensors
        ]
        joined = aten.cat.default(parts, 1)
        return joined.reshape([*before, joined.shape[1], *after])

    return function


def _reduction(op: torch._ops.OpOverload) -> Callable[..., Any]:
    def function(x: torch.Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        if not dim:
            return NotImplemented
        dims = {index % x.ndim for index in ([dim] if isinstance(dim, int) else dim)}
        sizes, axes = _merged(x.shape, [index in dims for index in range(x.ndim)])
        if len(sizes) == x.ndim:
            return NotImplemented
        result = op(
            x.reshape(sizes), [index for index, is_reduced in enumerate(axes) if is_reduced], False, **kwargs
        )
        shape = [1 if index in dims else size for index, size in enumerate(x.shape)]
        return result.reshape(shape if keepdim else [s for i, s in enumerate(x.shape) if i not in dims])

    return function


def _pointwise(op: torch._ops.OpOverload) -> Callable[..., Any]:
    def function(*arguments: Any, **kwargs: Any) -> Any:
        tensors = [item for item in arguments if isinstance(item, torch.Tensor)]
        ndim = max(tensor.ndim for tensor in tensors)
        shapes = [[1] * (ndim - tensor.ndim) + list(tensor.shape) for tensor in tensors]
        shape = [
            next((size for size in sizes if not _is_one(size)), 1) for sizes in zip(*shapes, strict=True)
        ]
        ones = [tuple(_is_one(size) for size in sizes) for sizes in zip(*shapes, strict=True)]
        # dimensions that are 1 in every input are dropped
        dims = [index for index, flags in enumerate(ones) if not all(flags)]
        sizes = [
            _merged([item[index] for index in dims], [ones[index] for index in dims])[0] for item in shapes
        ]
        if len(sizes[0]) == ndim:
            return NotImplemented
        flat = iter([tensor.reshape(size) for tensor, size in zip(tensors, sizes, strict=True)])
        flat_arguments = [next(flat) if isinstance(item, torch.Tensor) else item for item in arguments]
        return op(*flat_arguments, **kwargs).reshape(shape)

    return function


def _expand(x: torch.Tensor, shape: Sequence[int], **kwargs: Any) -> Any:
    old = [1] * (len(shape) - x.ndim) + list(x.shape)
    new = [
        was if isinstance(size, int) and size == -1 else size for was, size in zip(old, shape, strict=True)
    ]
    grows = [_is_one(was) and not _is_one(size) for was, size in zip(old, new, strict=True)]
    sizes, _ = _merged(old, grows)
    targets, _ = _merged(new, grows)
    if len(targets) == len(new):
        return NotImplemented
    return x.reshape(sizes).expand(targets).reshape(new)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
    flat = torch.nn.functional.linear(x.reshape([math.prod(x.shape[:-1]), x.shape[-1]]), weight, bias)
    return flat.reshape([*x.shape[:-1], flat.shape[-1]])


def _layer_norm(x: torch.Tensor, normalized_shape: Sequence[int], *arguments: Any) -> Any:
    lead = x.ndim - len(normalized_shape)
    flat = x.reshape([math.prod(x.shape[:lead]), *normalized_shape])
    return aten.layer_norm.default(flat, normalized_shape, *arguments).reshape(x.shape)


def _matmul(x: torch.Tensor, y: torch.Tensor) -> Any:
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    flat = [
        part.expand(*batch, *part.shape[-2:]).reshape([math.prod(batch), *part.shape[-2:]]) for part in (x, y)
    ]
    return torch.matmul(*flat).reshape([*batch, x.shape[-2], y.shape[-1]])


def _around(x: torch.Tensor, dim: int) -> torch.Tensor:
    """(before, `dim`, after); the last dimension stays last, since every format has softmax along it."""
    after = x.shape[dim + 1 :]
    return x.reshape([math.prod(x.shape[:dim]), x.shape[dim], *([math.prod(after)] if after else [])])


def _merged(shape: Sequence[Any], kinds: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Merge neighboring dimensions of the same kind: the sizes, and the kind of each."""
    runs = [list(run) for _, run in itertools.groupby(range(len(shape)), key=lambda index: kinds[index])]
    return [math.prod(shape[index] for index in run) for run in runs], [kinds[run[0]] for run in runs]


def _is_one(size: Any) -> bool:
    """Whether a size is 1; False for a symbolic size, since the comparison would add a guard to the program."""
    return isinstance(size, int) and size == 1
