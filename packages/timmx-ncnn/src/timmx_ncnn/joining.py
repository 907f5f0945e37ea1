"""Concatenation, rotation, repetition, indexing and padding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.layers import MOST_AXES, Parameter, Value, Weight
from timmx_ncnn.movement import around, cut, order_type
from timmx_ncnn.translate import HINT, Translation, arguments, shape_of, translates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

aten = torch.ops.aten


@translates(aten.cat.default)
def _cat(t: Translation, node: torch.fx.Node) -> Value:
    sources, dim = arguments(node)
    dim %= len(shape_of(node))
    sources = [source for source in sources if shape_of(source)[dim]]
    return joined(t, node, [(source, shape_of(source)) for source in sources], dim)


@translates(aten.stack.default)
def _stack(t: Translation, node: torch.fx.Node) -> Value:
    sources, dim = arguments(node)
    dim %= len(shape_of(node))
    shapes = [(*shape_of(source)[:dim], 1, *shape_of(source)[dim:]) for source in sources]
    return joined(t, node, list(zip(sources, shapes, strict=True)), dim)


def joined(
    t: Translation, node: torch.fx.Node, sources: Sequence[tuple[torch.fx.Node, tuple[int, ...]]], dim: int
) -> Value:
    """`Concat` of tensors, taken in these shapes, along an axis."""
    if len(sources) == 1:
        return t.take(sources[0][0])
    frame, axis = around(t, shape_of(node), dim)
    values = [t.take(source, (*frame[:axis], shape[dim], *frame[axis + 1 :])) for source, shape in sources]
    return t.network.add("Concat", node.name, values, frame, {0: axis})


@translates(aten.slice_scatter.default)
def _slice_scatter(t: Translation, node: torch.fx.Node) -> Value:
    source, part, dim, start, end, step = arguments(node)
    if step != 1:
        raise UnsupportedError("an assignment to every second element is not translated", hint=HINT)
    start, end, _ = slice(start, end).indices(shape_of(node)[dim])
    return _replaced(t, node, source, part, dim, start, end)


@translates(aten.select_scatter.default)
def _select_scatter(t: Translation, node: torch.fx.Node) -> Value:
    source, part, dim, index = arguments(node)
    index %= shape_of(node)[dim]
    return _replaced(t, node, source, part, dim, index, index + 1)


def _replaced(
    t: Translation,
    node: torch.fx.Node,
    source: torch.fx.Node,
    part: torch.fx.Node,
    dim: int,
    start: int,
    end: int,
) -> Value:
    """A tensor with a part along an axis replaced."""
    shape = shape_of(node)
    dim %= len(shape)
    frame, axis = around(t, shape, dim)
    pieces = [t.take(part, (*frame[:axis], end - start, *frame[axis + 1 :]))]
    if start:
        pieces.insert(0, cut(t, f"{node.name}_before", t.take(source, frame), axis, 0, start))
    if end < shape[dim]:
        pieces.append(cut(t, f"{node.name}_after", t.take(source, frame), axis, end, shape[dim]))
    if len(pieces) == 1:
        return pieces[0]
    return t.network.add("Concat", node.name, pieces, frame, {0: axis})


@translates(aten.roll.default)
def _roll(t: Translation, node: torch.fx.Node) -> Value:
    source, shifts, dims = arguments(node)
    if not dims:
        raise UnsupportedError("a roll over all elements is not translated", hint=HINT)
    shape = shape_of(source)
    value: Value | None = None
    for number, (shift, dim) in enumerate(zip(shifts, dims, strict=True)):
        frame, axis = around(t, shape, dim % len(shape))
        value = t.take(source, frame) if value is None else t.network.reshape(value, frame)
        size = shape[dim]
        if start := -shift % size:
            name = f"{node.name}_{number}"
            halves = [
                cut(t, f"{name}_end", value, axis, start, size),
                cut(t, f"{name}_start", value, axis, 0, start),
            ]
            value = t.network.add("Concat", name, halves, frame, {0: axis})
    assert value is not None
    return value


@translates(aten.flip.default)
def _flip(t: Translation, node: torch.fx.Node) -> Value:
    source, dims = arguments(node)
    shape = shape_of(source)
    frame, axes = t.frame(shape, *(dim % len(shape) for dim in dims))
    places = tuple(axes[dim % len(shape)] for dim in dims)
    return t.network.add("Flip", node.name, [t.take(source, frame)], frame, {0: places})


@translates(aten.expand.default)
def _expand(t: Translation, node: torch.fx.Node) -> Value:
    source = arguments(node)[0]
    shape = shape_of(node)
    old = (1,) * (len(shape) - len(shape_of(source))) + shape_of(source)
    return repeated(t, node, source, old, [new // size for new, size in zip(shape, old, strict=True)])


@translates(aten.copy.default)
def _copy(t: Translation, node: torch.fx.Node) -> Value:
    _, source, _ = arguments(node)
    shape = shape_of(node)
    old = (1,) * (len(shape) - len(shape_of(source))) + shape_of(source)
    return repeated(t, node, source, old, [new // size for new, size in zip(shape, old, strict=True)])


@translates(aten.repeat.default)
def _repeat(t: Translation, node: torch.fx.Node) -> Value:
    source, repeats = arguments(node)
    old = (1,) * (len(repeats) - len(shape_of(source))) + shape_of(source)
    return repeated(t, node, source, old, repeats)


def repeated(
    t: Translation, node: torch.fx.Node, source: torch.fx.Node, shape: Sequence[int], repeats: Sequence[int]
) -> Value:
    """Copies along axes: `Tile`, one axis after the other."""
    current = list(shape)
    value = t.take(source)
    for dim, number in enumerate(repeats):
        if number == 1:
            continue
        merged = (math.prod(current[:dim]), current[dim] * math.prod(current[dim + 1 :]))
        value = t.network.reshape(value, merged)
        value = t.network.add(
            "Tile", f"{node.name}_{dim}", [value], (merged[0], merged[1] * number), {0: 1, 1: number}
        )
        current[dim] *= number
    return value


@translates(aten.index.Tensor, aten.index_select.default)
def _index(t: Translation, node: torch.fx.Node) -> Value:
    """Constant indices along one axis: slices if they are a few ranges, otherwise a product with a 0-1 matrix."""
    source = arguments(node)[0]
    if node.target is aten.index_select.default:
        dim, where = arguments(node)[1:]
    else:
        indexed = [(place, item) for place, item in enumerate(arguments(node)[1]) if item is not None]
        if len(indexed) != 1:
            raise UnsupportedError("ncnn has no indices along several axes", hint=HINT)
        ((dim, where),) = indexed
    places = t.constant(where)
    if places is None:
        raise UnsupportedError("ncnn has no indices that depend on the input", hint=HINT)
    shape = shape_of(source)
    if places.dtype == torch.bool:
        places = places.nonzero()[:, 0]
    indices = [int(index) % shape[dim] for index in places.reshape(-1).tolist()]
    before, after = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    ranges = _ranges(indices)
    if len(ranges) <= 8:
        value = t.take(source, (before, shape[dim], after))
        pieces = [cut(t, f"{node.name}_{number}", value, 1, *span) for number, span in enumerate(ranges)]
        if len(pieces) == 1:
            return pieces[0]
        return t.network.add("Concat", node.name, pieces, (before, len(indices), after), {0: 1})
    matrix = torch.zeros(len(indices), shape[dim])
    matrix[range(len(indices)), indices] = 1
    rows = t.network.reshape(
        _swapped(t, f"{node.name}_rows", t.take(source, (before, shape[dim], after))),
        (before * after, shape[dim]),
    )
    product = t.network.add(
        "Gemm",
        node.name,
        [rows],
        (before * after, len(indices)),
        {2: 0, 3: 1, 5: 1, 6: 1, 8: len(indices), 9: shape[dim], 10: -1},
        (Weight(matrix.numpy().ravel()),),
    )
    return _swapped(t, f"{node.name}_back", t.network.reshape(product, (before, after, len(indices))))


def _swapped(t: Translation, name: str, value: Value) -> Value:
    """The last two of three axes exchanged."""
    first, second, third = value.shape
    return t.network.add("Permute", name, [value], (first, third, second), {0: order_type((0, 2, 1))})


def _ranges(indices: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive indices as (start, end)."""
    ranges: list[tuple[int, int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index:
            ranges[-1] = (ranges[-1][0], index + 1)
        else:
            ranges.append((index, index + 1))
    return ranges


@translates(aten.constant_pad_nd.default, aten.pad.default)
def _pad(t: Translation, node: torch.fx.Node) -> Value:
    source, pads, *mode, number = arguments(node)
    kind = _PADDING.get(mode[0] if mode else "constant")
    if kind is None:
        raise UnsupportedError(f"ncnn has no padding in the mode {mode[0]}", hint=HINT)
    rank = len(shape_of(source))
    around = {rank - 1 - place: (pads[2 * place], pads[2 * place + 1]) for place in range(len(pads) // 2)}
    around = {dim: both for dim, both in around.items() if any(both)}
    return padded(t, node.name, source, around, {4: kind, 5: float(number or 0)})


@translates(aten.reflection_pad2d.default, aten.replication_pad2d.default)
def _pad_edges(t: Translation, node: torch.fx.Node) -> Value:
    source, (left, right, top, bottom) = arguments(node)
    mode = "reflect" if node.target is aten.reflection_pad2d.default else "replicate"
    rank = len(shape_of(source))
    around = {rank - 1: (left, right), rank - 2: (top, bottom)}
    return padded(t, node.name, source, around, {4: _PADDING[mode]})


_PADDING = {"constant": 0, "replicate": 1, "reflect": 2}
"""Types of `Padding`."""


_SIDES = ((2, 3), (0, 1), (7, 8))
"""The parameters of `Padding` for the width, the height and the channels."""


def padded(
    t: Translation,
    name: str,
    source: torch.fx.Node,
    around: Mapping[int, tuple[int, int]],
    parameters: Mapping[int, Parameter],
) -> Value:
    """`Padding` along axes: one layer for a map, otherwise one per axis, with the other axes merged."""
    current = list(shape_of(source))
    frame, axes = t.frame(current, *around)
    if len(frame) < MOST_AXES and all(min(both) >= 0 for both in around.values()):
        sides = dict(parameters)
        shape = list(frame)
        for dim, both in around.items():
            sides |= dict(zip(_SIDES[len(frame) - 1 - axes[dim]], both, strict=True))
            shape[axes[dim]] += sum(both)
        return t.network.add("Padding", name, [t.take(source, frame)], shape, sides)
    value = t.take(source)
    for dim, (low, high) in around.items():
        before, after = math.prod(current[:dim]), math.prod(current[dim + 1 :])
        value = t.network.reshape(value, (before, current[dim], after))
        if min(low, high) < 0:  # a padding that removes pixels
            start, end = max(0, -low), current[dim] - max(0, -high)
            value = cut(t, f"{name}_{dim}_cut", value, 1, start, end)
        low, high = max(0, low), max(0, high)
        if low or high:
            shape = [before, value.shape[1] + low + high, after]
            value = t.network.add("Padding", f"{name}_{dim}", [value], shape, {**parameters, 0: low, 1: high})
        current[dim] = value.shape[1]
    return value
