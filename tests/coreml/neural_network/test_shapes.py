"""Layers that rearrange, slice, gather and scatter, against numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from neural_networks import by_hand, evaluate, evaluate_all, from_mil, random
from timmx.errors import ArtifactError, UnsupportedError

SHAPE = 2, 3, 4, 6


def same(results, expected):
    expected = np.asarray(expected)
    assert results.shape == (expected.shape or (1,))
    return np.allclose(results, expected, rtol=1e-5, atol=1e-6)


def test_reshapes():
    x = random(*SHAPE)
    operations = {
        "static": lambda x: mb.reshape(x=x, shape=[6, 24]),
        "rank kept": lambda x: mb.reshape(x=x, shape=[2, 4, -1, 6]),
        "transpose": lambda x: mb.transpose(x=x, perm=[2, 0, 3, 1]),
        "expand": lambda x: mb.reduce_sum(x=mb.expand_dims(x=x, axes=[-2]), axes=[0], keep_dims=False),
        "stack": lambda x: mb.stack(values=[x, mb.relu(x=x)], axis=-2),
        "concat": lambda x: mb.concat(values=[x, mb.relu(x=x)], axis=1),
        "concat last": lambda x: mb.concat(values=[x, mb.relu(x=x)], axis=-1),
        "interleaved": lambda x: mb.concat(values=[x, mb.relu(x=x)], axis=1, interleave=True),
        "split": lambda x: mb.split(x=x, num_splits=3, axis=-1)[1],
        "uneven split": lambda x: mb.split(x=x, split_sizes=[1, 3, 2], axis=3)[1],
        "tile": lambda x: mb.tile(x=x, reps=[2, 1, 3, 1]),
        "reverse": lambda x: mb.reverse(x=x, axes=[1, 3]),
        "flatten2d": lambda x: mb.flatten2d(x=x, axis=2),
        "band": lambda x: mb.band_part(x=x, lower=1, upper=2),
        "windows": lambda x: mb.reduce_sum(
            x=mb.sliding_windows(x=x, axis=2, size=3, stride=1), axes=[0], keep_dims=False
        ),
        "shape": lambda x: mb.shape(x=x),
    }
    positive = np.maximum(x, 0)
    windows = np.lib.stride_tricks.sliding_window_view(x, 3, 2).transpose(0, 1, 2, 4, 3)
    expected = {
        "static": x.reshape(6, 24),
        "rank kept": x.reshape(2, 4, 3, 6),
        "transpose": x.transpose(2, 0, 3, 1),
        "expand": x[:, :, :, None, :].sum(0),
        "stack": np.stack([x, positive], -2),
        "concat": np.concatenate([x, positive], 1),
        "concat last": np.concatenate([x, positive], -1),
        "interleaved": np.stack([x, positive], 2).reshape(2, 6, 4, 6),
        "split": x[..., 2:4],
        "uneven split": x[..., 1:4],
        "tile": np.tile(x, (2, 1, 3, 1)),
        "reverse": np.flip(x, (1, 3)),
        "flatten2d": x.reshape(6, 24),
        "band": np.tril(np.triu(x, -1), 2),
        "windows": windows.sum(0),
        "shape": [2, 3, 4, 6],
    }
    results = evaluate_all(operations, x)
    for name, value in expected.items():
        assert same(results[name], value), name


@pytest.mark.parametrize(("axes", "shape"), [([0, 2], (3, 4)), ([-2], (1, 3, 4)), (None, (3, 4))])
def test_squeeze(axes, shape):
    x = random(1, 3, 1, 4)
    spec = by_hand(lambda b: b.add_squeeze("s", "x0", "y", axes, squeeze_all=axes is None), x.shape)
    assert same(evaluate(spec, x), x.reshape(shape))


def test_squeeze_of_an_axis_larger_than_one_is_reported():
    spec = by_hand(lambda b: b.add_squeeze("s", "x0", "y", [1]), (1, 3))
    with pytest.raises(ArtifactError, match=r"'s' \(squeeze\).*not all of size 1"):
        evaluate(spec, random(1, 3))


def test_reshape_to_a_shape_that_is_an_input():
    x = random(*SHAPE)
    spec = by_hand(lambda b: b.add_reshape_dynamic("r", ["x0", "x1"], "y"), SHAPE, (3,))
    assert same(evaluate(spec, x, [4, -1, 2]), x.reshape(4, -1, 2))
    spec = by_hand(lambda b: b.add_reshape_like("r", ["x0", "x1"], "y"), SHAPE, (12, 12))
    assert same(evaluate(spec, x, random(12, 12)), x.reshape(12, 12))
    spec = by_hand(lambda b: b.add_rank_preserving_reshape("r", "x0", "y", [0, -1, 0, 2]), SHAPE)
    assert same(evaluate(spec, x), x.reshape(2, 9, 4, 2))


@pytest.mark.parametrize(
    ("axis", "expected"), [((0, 3, 1, 2), (0, 1, 4, 2, 3)), ((3, 1, 2, 0), (4, 1, 2, 3, 0))]
)
def test_permute_keeps_the_batch_axis(axis, expected):
    x = random(2, 3, 4, 5, 6)
    spec = by_hand(lambda b: b.add_permute("p", axis, "x0", "y"), x.shape)
    assert same(evaluate(spec, x), x.transpose(expected))


@pytest.mark.parametrize("mode", [0, 1])
def test_flatten(mode):
    x = random(*SHAPE)
    spec = by_hand(lambda b: b.add_flatten("f", mode, "x0", "y"), SHAPE)
    expected = x.transpose(0, 2, 3, 1) if mode else x
    assert same(evaluate(spec, x), expected.reshape(2, -1, 1, 1))


def test_split_and_concat_of_channels():
    x = random(*SHAPE)

    def add(builder):
        builder.add_split("s", "x0", ["a", "b", "c"])
        builder.add_elementwise("c", ["c", "a", "b"], "y", "CONCAT")

    assert same(evaluate(by_hand(add, SHAPE), x), x[:, [2, 0, 1]])


SLICES = [
    ([1, 0, 1, 0], [2, 3, 3, 6], [1, 1, 1, 1], [False] * 4, [False] * 4),
    ([0, -2, 0, -1], [2, 3, 4, 0], [1, 1, 2, -2], [False] * 4, [False] * 4),
    ([1, 2, 3, 4], [0, 0, 0, 1], [1, -1, -1, -1], [True, True, True, False], [True, True, True, False]),
    ([0, 0, 0, 0], [2, 3, 4, 100], [1, 1, 1, 4], [False, True, False, True], [True, False, True, False]),
]


@pytest.mark.parametrize(("begin", "end", "stride", "begin_mask", "end_mask"), SLICES)
@pytest.mark.parametrize("dynamic", [False, True])
def test_slices_equal_numpys(begin, end, stride, begin_mask, end_mask, dynamic):
    x = random(*SHAPE)
    index = tuple(
        slice(None if bm else b, None if em else e, s)
        for b, e, s, bm, em in zip(begin, end, stride, begin_mask, end_mask, strict=True)
    )

    def static(builder):
        builder.add_slice_static("s", "x0", "y", begin, end, stride, begin_mask, end_mask)

    def moving(builder):
        builder.add_slice_dynamic(
            "s", ["x0", "x1", "x2"], "y",
            strides=stride, begin_masks=begin_mask, end_masks=end_mask, squeeze_masks=[False] * 4,
        )  # fmt: skip

    if dynamic:
        assert same(evaluate(by_hand(moving, SHAPE, (4,), (4,)), x, begin, end), x[index])
    else:
        assert same(evaluate(by_hand(static, SHAPE), x), x[index])


def test_squeezed_axis_is_indexed():
    x = random(*SHAPE)

    def add(builder):
        squeeze = [False, True, False, True]
        builder.add_slice_static(
            "s", "x0", "y", [0, -1, 1, 2], [2, 0, 3, 0], [1] * 4, [False] * 4, [False] * 4, squeeze
        )

    assert same(evaluate(by_hand(add, SHAPE), x), x[:, -1, 1:3, 2])


@pytest.mark.parametrize(("axis", "place"), [("channel", 1), ("height", 2), ("width", 3)])
def test_slice_of_one_axis(axis, place):
    x = random(*SHAPE)
    spec = by_hand(lambda b: b.add_slice("s", "x0", "y", axis), SHAPE)
    params = spec.neuralNetwork.layers[0].slice
    for start, end, stride in ((1, 3, 1), (0, -1, 2), (-3, -1, 1), (-2, SHAPE[place], 1)):
        params.startIndex, params.endIndex, params.stride = start, end, stride
        index = [slice(None)] * 4
        index[place] = slice(start, end, stride)
        assert same(evaluate(spec, x), x[tuple(index)])


def test_slice_beyond_the_axis_is_refused():
    spec = by_hand(lambda b: b.add_slice("s", "x0", "y", "width", start_index=0, end_index=9), SHAPE)
    with pytest.raises(UnsupportedError, match="0 to 9 of an axis of size 6"):
        evaluate(spec, random(*SHAPE))


def test_slice_with_a_dynamic_begin():
    x = random(*SHAPE)
    spec = from_mil(
        lambda x, begin: mb.slice_by_size(x=x, begin=mb.cast(x=begin, dtype="int32"), size=[1, -1, 2, 3]),
        SHAPE,
        (4,),
    )
    assert same(evaluate(spec, x, [1, 0, 2, 3]), x[1:2, :, 2:4, 3:6])


def test_slice_by_size():
    x = random(*SHAPE)
    spec = by_hand(lambda b: b.add_slice_by_size("s", ["x0", "x1"], "y", 3, 2), SHAPE, (1,))
    assert same(evaluate(spec, x, [3]), x[..., 3:5])


@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_gather(axis, shape):
    x, indices = random(*SHAPE), np.resize([1, -1, 0, -2], shape)
    spec = by_hand(lambda b: b.add_gather("g", ["x0", "x1"], "y", axis), SHAPE, shape)
    assert same(evaluate(spec, x, indices), np.take(x, indices, axis))


def test_gather_outside_is_an_error():
    spec = by_hand(lambda b: b.add_gather("g", ["x0", "x1"], "y", 0), SHAPE, (1,))
    with pytest.raises(ArtifactError, match="outside an axis of size 2"):
        evaluate(spec, random(*SHAPE), [2])


def test_gather_along_and_nd():
    x, indices = random(*SHAPE), np.random.default_rng(0).integers(-4, 4, (2, 3, 5, 6))
    spec = by_hand(lambda b: b.add_gather_along_axis("g", ["x0", "x1"], "y", 2), SHAPE, indices.shape)
    assert same(evaluate(spec, x, indices), np.take_along_axis(x, indices, 2))
    indices = np.array([[0, 1], [1, -1], [0, 0]])
    spec = by_hand(lambda b: b.add_gather_nd("g", ["x0", "x1"], "y"), SHAPE, indices.shape)
    assert same(evaluate(spec, x, indices), x[indices[:, 0], indices[:, 1]])


MODES = {
    "UPDATE": lambda old, new: new,
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "DIV": np.divide,
    "MAX": np.maximum,
    "MIN": np.minimum,
}


@pytest.mark.parametrize("mode", MODES)
def test_scatters_apply_updates_in_order(mode):
    x, combine = random(4, 3), MODES[mode]
    indices, updates = np.array([2, 0, 2]), random(3, 3, seed=1)
    spec = by_hand(lambda b: b.add_scatter("s", ["x0", "x1", "x2"], "y", 0, mode), (4, 3), (3,), (3, 3))
    expected = x.copy()
    for index, update in zip(indices, updates, strict=True):
        expected[index] = combine(expected[index], update)
    assert same(evaluate(spec, x, indices, updates), expected)

    spec = by_hand(lambda b: b.add_scatter_nd("s", ["x0", "x1", "x2"], "y", mode), (4, 3), (3, 1), (3, 3))
    assert same(evaluate(spec, x, indices[:, None], updates), expected)

    along = np.array([[1, 1, -1], [0, 2, 0]])
    spec = by_hand(
        lambda b: b.add_scatter_along_axis("s", ["x0", "x1", "x2"], "y", 1, mode), (4, 3), (2, 3), (2, 3)
    )
    expected = x.copy()
    for row, column in itertools.product(range(2), range(3)):
        place = row, along[row, column]
        expected[place] = combine(expected[place], updates[row, column])
    assert same(evaluate(spec, x, along, updates[:2]), expected)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis):
    indices = np.array([[0, 2, 4], [1, 1, 3]])
    spec = by_hand(lambda b: b.add_one_hot("o", ["x0"], "y", 5, axis, 2.0, -1.0), (2, 3))
    assert same(evaluate(spec, indices), np.moveaxis(np.where(np.eye(5)[indices] == 1, 2.0, -1.0), -1, axis))


def test_fills_ranges_and_broadcasts():
    x = random(1, 3)
    for add, expected in (
        (lambda b: b.add_fill_like("f", "x0", "y", 2.5), np.full((1, 3), 2.5)),
        (lambda b: b.add_fill_static("f", "y", [2, 5], 1.5), np.full((2, 5), 1.5)),
        (lambda b: b.add_range_static("f", "y", [], 7, 1, 2), [1, 3, 5]),
        (lambda b: b.add_broadcast_to_static("f", "x0", "y", [4, 2, 3]), np.broadcast_to(x, (4, 2, 3))),
        (lambda b: b.add_load_constant_nd("f", "y", np.arange(6.0), [2, 3]), np.arange(6).reshape(2, 3)),
        (
            lambda b: b.add_load_constant("f", "y", np.arange(6.0), [1, 2, 3]),
            np.arange(6).reshape(1, 1, 1, 2, 3),
        ),
        (lambda b: b.add_where_nonzero("f", "x0", "y"), [[0, 0], [0, 1], [0, 2]]),
        (lambda b: b.add_lower_triangular("f", "x0", "y", 1), np.tril(x, 1)),
        (lambda b: b.add_upper_triangular("f", "x0", "y", 1), np.triu(x, 1)),
    ):
        assert same(evaluate(by_hand(add, (1, 3)), x), expected)
    for add, shape, value, expected in (
        (lambda b: b.add_fill_dynamic("f", "x1", "y", 3.0), (2,), [2, 4], np.full((2, 4), 3.0)),
        (lambda b: b.add_range_dynamic("f", ["x1"], "y", 2, 3), (1,), [10], [2, 5, 8]),
        (
            lambda b: b.add_broadcast_to_dynamic("f", ["x0", "x1"], "y"),
            (2,),
            [5, 3],
            np.broadcast_to(x, (5, 3)),
        ),
        (lambda b: b.add_broadcast_to_like("f", ["x0", "x1"], "y"), (2, 3), random(2, 3), np.repeat(x, 2, 0)),
        (lambda b: b.add_tile("f", ["x0", "x1"], "y"), (2,), [2, 2], np.tile(x, (2, 2))),
        (
            lambda b: b.add_constant_pad("f", ["x0", "x1"], "y", 9.0),
            (4,),
            [1, 0, 0, 2],
            np.pad(x, [(1, 0), (0, 2)], constant_values=9),
        ),
    ):
        assert same(evaluate(by_hand(add, (1, 3), shape), x, value), expected)
