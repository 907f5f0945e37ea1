"""Reshapes, permutations and slices, which only move numbers."""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.layers import MOST_AXES, Value
from timmx_ncnn.translate import HINT, Translation, arguments, shape_of, translates

if TYPE_CHECKING:
    from collections.abc import Sequence

aten = torch.ops.aten


@translates(
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.to.dtype,
    aten._to_copy.default,
)
def _same_numbers(t: Translation, node: torch.fx.Node) -> Value:
    if not node.meta["val"].dtype.is_floating_point:
        raise UnsupportedError(f"ncnn computes in floats, not in {node.meta['val'].dtype}", hint=HINT)
    return t.take(arguments(node)[0])


@translates(aten.permute.default)
def _permute(t: Translation, node: torch.fx.Node) -> Value:
    source, dims = arguments(node)
    rank = len(shape_of(source))
    return permuted(t, node.name, source, [dim % rank for dim in dims])


@translates(aten.transpose.int, aten.t.default)
def _transpose(t: Translation, node: torch.fx.Node) -> Value:
    source, first, second = (*arguments(node), 0, 1)[:3]
    order = list(range(len(shape_of(source))))
    order[first], order[second] = order[second], order[first]
    return permuted(t, node.name, source, order)


def permuted(t: Translation, name: str, source: torch.fx.Node, order: Sequence[int]) -> Value:
    """A permutation of as few axes as possible: none of size 1, and neighbors that stay together are one."""
    shape = shape_of(source)
    moving = [axis for axis in order if shape[axis] != 1]
    kept = sorted(moving)
    groups = [[axis] for axis in moving[:1]]
    for before, axis in itertools.pairwise(moving):
        if kept.index(axis) == kept.index(before) + 1:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    if len(groups) < 2:
        return t.take(source)
    if len(groups) > MOST_AXES:
        raise UnsupportedError(f"ncnn permutes at most {MOST_AXES} axes, not {len(groups)}", hint=HINT)
    merged = {group[0]: math.prod(shape[axis] for axis in group) for group in groups}
    starts = sorted(merged)
    value = t.take(source, tuple(merged[start] for start in starts))
    places = tuple(starts.index(group[0]) for group in groups)
    return t.network.add(
        "Permute", name, [value], tuple(value.shape[place] for place in places), {0: order_type(places)}
    )


@functools.cache
def order_type(places: tuple[int, ...]) -> int:
    """ncnn's number of a permutation: they are listed from the innermost axis, which changes first."""
    letters = {2: "hw", 3: "chw", 4: "cdhw"}[len(places)]
    listed = {
        2: "wh hw",
        3: "whc hwc wch cwh hcw chw",
        4: "whdc hwdc wdhc dwhc hdwc dhwc whcd hwcd wchd cwhd hcwd chwd "
        "wdch dwch wcdh cwdh dcwh cdwh hdcw dhcw hcdw chdw dchw cdhw",
    }[len(places)].split()
    return listed.index("".join(letters[place] for place in reversed(places)))


@translates(aten.slice.Tensor)
def _slice(t: Translation, node: torch.fx.Node) -> Value:
    source, dim, start, end, step = arguments(node)
    size = shape_of(source)[dim]
    start, end, _ = slice(start, end).indices(size)
    if step == 1:
        return crop(t, node.name, source, dim, start, end)
    return _every(t, node, source, dim % len(shape_of(source)), start, step)


@translates(aten.narrow.default)
def _narrow(t: Translation, node: torch.fx.Node) -> Value:
    source, dim, start, length = arguments(node)
    start %= shape_of(source)[dim]
    return crop(t, node.name, source, dim, start, start + length)


@translates(aten.select.int)
def _select(t: Translation, node: torch.fx.Node) -> Value:
    source, dim, index = arguments(node)
    index %= shape_of(source)[dim]
    return crop(t, node.name, source, dim, index, index + 1)


def crop(t: Translation, name: str, source: torch.fx.Node, dim: int, start: int, end: int) -> Value:
    """The part of a tensor from `start` to `end` along an axis."""
    shape = shape_of(source)
    dim %= len(shape)
    if (start, end) == (0, shape[dim]):
        return t.take(source)
    frame, axes = around(t, shape, dim)
    value = t.take(source, frame)
    return cut(t, name, value, axes, start, end)


def cut(t: Translation, name: str, value: Value, axis: int, start: int, end: int) -> Value:
    """A `Crop` of a value along an axis of its `Mat`."""
    shape = tuple(end - start if place == axis else size for place, size in enumerate(value.shape))
    return t.network.add("Crop", name, [value], shape, {9: (start,), 10: (end,), 11: (axis,)})


def around(t: Translation, shape: Sequence[int], dim: int) -> tuple[tuple[int, ...], int]:
    """The usual shape and the place of an axis in it; (before, axis, after) if there are too many axes."""
    try:
        frame, axes = t.frame(shape, dim)
        return frame, axes[dim]
    except UnsupportedError:
        return (math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])), 1


def _every(
    t: Translation, node: torch.fx.Node, source: torch.fx.Node, dim: int, start: int, step: int
) -> Value:
    """Every `step`-th element from `start`, as the first part of each group of `step`: ncnn's slices have no steps."""
    shape = shape_of(source)
    before, after = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    number = shape_of(node)[dim]
    value = t.take(source, (before, shape[dim], after))
    missing = start + number * step - shape[dim]
    if missing > 0:
        padded = (before, shape[dim] + missing, after)
        value = t.network.add("Padding", f"{node.name}_pad", [value], padded, {1: missing})
    if start or missing < 0:
        value = cut(t, f"{node.name}_range", value, 1, start, start + number * step)
    value = t.network.reshape(value, (before, number, step * after))
    return cut(t, node.name, value, 2, 0, after)


@translates(aten.unbind.int)
def _unbind(t: Translation, node: torch.fx.Node) -> list[Value]:
    source, dim = arguments(node)
    return parts(t, node, source, dim, [1] * shape_of(source)[dim])


@translates(aten.split.Tensor, aten.chunk.default, aten.split_with_sizes.default)
def _split(t: Translation, node: torch.fx.Node) -> list[Value]:
    source, _, dim = arguments(node)
    return parts(t, node, source, dim, [part.shape[dim] for part in node.meta["val"]])


def parts(
    t: Translation, node: torch.fx.Node, source: torch.fx.Node, dim: int, lengths: Sequence[int]
) -> list[Value]:
    """Consecutive parts along an axis; one layer if all are used."""
    if len(lengths) == 1:
        return [t.take(source)]
    dim %= len(shape_of(source))
    frame, axis = around(t, shape_of(source), dim)
    value = t.take(source, frame)
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    used = {user.args[1] for user in node.users if user.users}
    if used == set(range(len(lengths))):
        shapes = [(*frame[:axis], length, *frame[axis + 1 :]) for length in lengths]
        return t.network.add_several("Slice", node.name, [value], shapes, {0: (*lengths[:-1], -233), 1: axis})
    return [
        cut(t, f"{node.name}_{number}", value, axis, start, start + length)
        for number, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]


def is_swap(node: Any) -> bool:
    """Whether a node exchanges the last two axes of its input."""
    if not isinstance(node, torch.fx.Node):
        return False
    rank = len(shape_of(node))
    if node.target is aten.transpose.int:
        return {axis % rank for axis in arguments(node)[1:]} == {rank - 2, rank - 1}
    if node.target is aten.permute.default:
        return [axis % rank for axis in arguments(node)[1]] == [*range(rank - 2), rank - 1, rank - 2]
    return False
