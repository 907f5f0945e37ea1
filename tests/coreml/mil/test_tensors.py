"""Operations that move, join, select and sort values, including border cases."""

from __future__ import annotations

import numpy as np
import pytest
from mil_programs import Case, evaluate

_RNG = np.random.default_rng(1)
X = _RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
M = _RNG.normal(size=(4, 6)).astype(np.float32)
INTS = _RNG.permutation(24).reshape(4, 6).astype(np.int32)
FLAT = np.arange(12, dtype=np.float32)


def case(
    name: str, *inputs: np.ndarray, expected: object = None, target: str = "iOS16", **options: object
) -> Case:
    """The operation `name` on its first inputs, with `options` as its other parameters."""

    def build(mb, *variables):
        names = {
            "gather": ("x", "indices"),
            "gather_along_axis": ("x", "indices"),
            "gather_nd": ("x", "indices"),
        }
        names |= dict.fromkeys(
            ("scatter", "scatter_along_axis", "scatter_nd"), ("data", "indices", "updates")
        )
        bound = dict(zip(names.get(name, ("x",)), variables, strict=False))
        return getattr(mb, name)(**bound, **options)

    label = ",".join(f"{key}={value}".replace("\n", "") for key, value in options.items())
    return Case(f"{name}({label})", build, inputs, expected, target)


def slice_case(
    expected: np.ndarray, begin: list[int], end: list[int], x: np.ndarray = X, **options: object
) -> Case:
    return case("slice_by_index", x, expected=expected, begin=begin, end=end, **options)


def scatter_cases(mode: str, target: str) -> list[Case]:
    """Scatters into M with one row twice, against numpy's unbuffered updates."""
    rows = np.array([2, 0, 2], np.int32)
    updates = _RNG.uniform(0.5, 2, size=(3, 6)).astype(np.float32)
    along = np.array([[1, 0, 3, 2, 1, 1], [1, 1, 1, 0, 0, 2]], np.int32)
    spots = np.array([[2, 5], [0, 1], [2, 5]], np.int32)
    apply = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum}
    apply["min"] = np.minimum
    first, second, third = M.copy(), M.copy(), M.copy()
    apply[mode].at(first, rows, updates)
    apply[mode].at(second, (along, np.arange(6)), updates[:2])
    apply[mode].at(third, tuple(spots.T), updates[:, 0])
    return [
        case("scatter", M, rows, updates, expected=first, axis=0, mode=mode, target=target),
        case("scatter_along_axis", M, along, updates[:2], expected=second, axis=0, mode=mode, target=target),
        case("scatter_nd", M, spots, updates[:, 0], expected=third, mode=mode, target=target),
    ]


def join_case(name: str, *inputs: np.ndarray, expected: object = None, **options: object) -> Case:
    return Case(
        f"{name}{options}",
        lambda mb, *values: getattr(mb, name)(values=list(values), **options),
        inputs,
        expected,
    )


UNIQUE = np.array([[3, 0, 1, 2, 3, 0], [1, 2, 0, 3, 1, 2]], np.int32)
CASES = [
    # slices
    slice_case(X[:, 1:3, ::2, -2:], [0, 1, 0, -2], [2, 3, 4, 5], stride=[1, 1, 2, 1]),
    slice_case(
        X[::-1, :, 3:0:-2, ::-1],
        [0, 0, 3, 0],
        [0, 0, 0, 0],
        stride=[-1, 1, -2, -1],
        begin_mask=[True, True, False, True],
        end_mask=[True, True, False, True],
    ),
    slice_case(X[:, :, -1:0:-1, 4:1:-1], [0, 0, -1, 4], [2, 3, 0, 1], stride=[1, 1, -1, -1]),
    slice_case(X[1, :, -1], [1, 0, -1, 0], [0, 3, 0, 5], squeeze_mask=[True, False, True, False]),
    slice_case(X[:, :, :, :100], [0, 0, 0, 0], [2, 3, 4, 100]),
    case("slice_by_size", X, begin=[0, 1, -3, 2], size=[2, 2, 2, -1]),
    # shapes
    case("reshape", X, shape=[2, -1, 5], expected=X.reshape(2, 12, 5)),
    case("reshape", X, shape=[0, 0, -1, 2], expected=X.reshape(2, 3, 10, 2)),
    case("reshape", X, shape=[-1, 0, 0], target="iOS17", expected=X.reshape(6, 4, 5)),
    case("reshape", M, shape=[1, 0, -1, 0], target="iOS17", expected=M.reshape(1, 1, 4, 6)),
    case("transpose", X, perm=[-1, 0, 2, 1]),
    case("expand_dims", M, axes=[0, -1]),
    case("expand_dims", M, axes=[-2, 0]),
    case("squeeze", X[:1, :, :1], axes=[0, -2], expected=X[0, :, 0]),
    case("squeeze", X[:1, :, :1], expected=X[0, :, 0]),
    case("flatten2d", X, axis=-1),
    case("flatten2d", X, axis=2),
    case("reverse", X, axes=[0, -1]),
    case("reverse", X),
    case("shape", X),
    Case(
        "reshape_like",
        lambda mb, x, a, b: mb.reshape_like(
            x=x, ref_tensors=(a, b), begins=(0, 1), ends=(2, 0), end_masks=(False, True)
        ),
        (np.arange(180, dtype=np.float32), X[:, :, 0], np.zeros((1, 5, 6), np.float32)),
        np.arange(180, dtype=np.float32).reshape(2, 3, 5, 6),
    ),
    case("sliding_windows", M, axis=1, size=3, stride=2, expected=np.stack([M[:, 0:3], M[:, 2:5]], 1)),
    case(
        "pixel_shuffle",
        np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1),
        upscale_factor=2,
        expected=np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2),
    ),
    case(
        "pixel_unshuffle",
        np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2),
        downscale_factor=np.uint32(2),
        expected=np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1),
    ),
    case(
        "depth_to_space",
        np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1),
        block_size=2,
        expected=np.array([[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]], np.float32),
    ),
    case(
        "space_to_depth",
        np.array([[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]], np.float32),
        block_size=2,
        expected=np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1),
    ),
    # joining, repeating, padding
    join_case("concat", X, X * 2, axis=-2, expected=np.concatenate([X, X * 2], -2)),
    join_case(
        "concat",
        M,
        -M,
        axis=0,
        interleave=True,
        expected=np.stack([M, -M], 1).reshape(8, 6),
    ),
    join_case("stack", M, -M, axis=-1, expected=np.stack([M, -M], -1)),
    case("split", X, axis=-1, split_sizes=[1, 4]),
    case("split", X, axis=2, num_splits=2, expected=np.split(X, 2, 2)),
    case("tile", M, reps=[2, 3]),
    case("pad", X, pad=[0, 0, 0, 0, 1, 2, 3, 0], mode="constant", constant_val=-1.5),
    case("pad", X, pad=[1, 2, 3, 0], mode="reflect"),
    case("pad", X, pad=[1, 1, 4, 2], mode="replicate"),
    Case("fill", lambda mb: mb.fill(shape=[2, 3], value=np.int32(7)), ()),
    case("band_part", M, lower=1, upper=0),
    case("band_part", M, lower=-1, upper=2),
    # selecting
    case("gather", X, np.array([2, 0, -1], np.int32), axis=1),
    case("gather", X, np.array([[1, -2], [0, 3]], np.int32), axis=-2),
    Case("gather-scalar", lambda mb, x: mb.gather(x=x, indices=np.int32(-1), axis=1), (X,), X[:, -1]),
    case("gather", X, np.array([[2, 0], [1, 1]], np.int32), axis=1, batch_dims=1),
    case("gather", X, np.array([[2, 0], [1, 1]], np.int32), axis=2, batch_dims=1),
    case("gather_along_axis", M, UNIQUE, axis=0),
    case("gather_along_axis", M, UNIQUE[:, :4].T.copy() - 3, axis=-1),
    case("gather_nd", X, np.array([[1, 2], [0, -1]], np.int32), expected=X[[1, 0], [2, 2]]),
    case(
        "gather_nd",
        X,
        np.array([[[2, 1]], [[0, 3]]], np.int32),
        batch_dims=1,
        expected=np.stack([X[0, [2], [1]], X[1, [0], [3]]]),
    ),
    *(
        case
        for mode in ("add", "sub", "mul", "div", "max", "min")
        for target in ("iOS16", "iOS17")
        for case in scatter_cases(mode, target)
    ),
    case("scatter_along_axis", M, np.array([[1, 0, 3, 2, 1, 1]], np.int32), M[:1], axis=0, mode="update"),
    # creating and sorting
    case("cumsum", M, axis=1, reverse=True),
    case(
        "cumsum",
        M,
        axis=1,
        exclusive=True,
        expected=np.concatenate([np.zeros((4, 1), np.float32), np.cumsum(M, 1)[:, :-1]], 1),
    ),
    case("argsort", INTS, axis=0),
    case("argsort", M, axis=-1, ascending=True),
    case("topk", M, k=3, axis=1),
    case("topk", M, k=2, axis=0, ascending=True),
    Case(
        "topk-uint16",
        lambda mb, x: mb.topk(x=x, k=2, axis=1, output_indices_dtype="uint16"),
        (M,),
        (np.sort(M, 1)[:, :-3:-1], np.argsort(-M, 1)[:, :2]),
        "iOS17",
    ),
    case("non_zero", np.array([[0, 2.5, 0], [1, 0, -1]], np.float32)),
    Case(
        "range_1d",
        lambda mb, x: mb.range_1d(start=1, end=mb.squeeze(x=x), step=3),
        (np.array([9], np.int32),),
        np.array([1, 4, 7], np.int32),
    ),
    Case(
        "one_hot",
        lambda mb, x: mb.one_hot(indices=x, one_hot_vector_size=4, axis=0, on_value=2.0, off_value=-1.0),
        (np.array([3, 0], np.int32),),
        np.array([[-1, 2], [-1, -1], [-1, -1], [2, -1]], np.float32),
    ),
    Case("fill_like", lambda mb, x: mb.fill_like(ref_tensor=x, value=3.0), (M,), np.full_like(M, 3)),
    Case(
        "slice_update",
        lambda mb, x, update: mb.slice_update(x=x, update=update, begin=[1, 0], end=[3, 6], stride=[1, 2]),
        (M, -M[:2, :3]),
        np.concatenate([M[:1], np.stack([-M[:2, :3], M[1:3, 1::2]], -1).reshape(2, 6), M[3:]]),
        "iOS18",
    ),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return evaluate(CASES, tmp_path_factory.mktemp("mil"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation(case, results):
    for computed, expected in results[str(case)]:
        expected = np.asarray(expected)
        assert computed.shape == expected.shape
        np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-6)


def test_case_names_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)
