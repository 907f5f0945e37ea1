"""Elementwise operations, activations and reductions compute what coremltools infers for them."""

from __future__ import annotations

import numpy as np
import pytest
from mil_programs import Case, evaluate, half

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(2, 3, 4, 5)).astype(np.float32) * 2
Y = _RNG.normal(size=(3, 1, 5)).astype(np.float32) * 2
POSITIVE = np.abs(X) + 0.1
UNIT = np.tanh(X) * 0.9
INTS = np.array([[-7, 5, 2], [3, -4, 0]], np.int32)
DIVISORS = np.array([2, -3, 5], np.int32)
TRUTH = np.array([[True, False, True], [False, False, True]])


def unary(name: str, x: np.ndarray = X, **parameters: object) -> Case:
    def build(mb, x):
        return getattr(mb, name)(x=x, **parameters)

    return Case("-".join([name, *map(str, parameters.values())]), build, (x,))


def binary(name: str, x: np.ndarray = X, y: np.ndarray = Y) -> Case:
    return Case(f"{name}-{x.dtype}", lambda mb, x, y: getattr(mb, name)(x=x, y=y), (x, y))


def reduction(name: str, x: np.ndarray = POSITIVE) -> list[Case]:
    return [
        unary(name, x, axes=axes, keep_dims=keep)
        for axes in ([1, -1], [0, 1, 2, 3])
        for keep in (True, False)
    ]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x.astype(np.float64)))


CASES = [
    *map(unary, "abs atan ceil cos cosh erf exp exp2 floor sign sin sinh square tan tanh".split()),
    *map(unary, "relu relu6 sigmoid softplus softsign".split()),
    *(unary(name, UNIT) for name in "acos asin atanh".split()),
    *(unary(name, POSITIVE) for name in "log rsqrt sqrt inverse".split()),
    *(unary(name, POSITIVE, epsilon=0.5) for name in "log rsqrt inverse".split()),
    unary("round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)),
    *(unary(name, INTS) for name in "abs sign square".split()),
    unary("logical_not", TRUTH),
    *(unary("gelu", X, mode=mode) for mode in "EXACT TANH_APPROXIMATION SIGMOID_APPROXIMATION".split()),
    *(unary(name, X, alpha=0.3) for name in "elu leaky_relu threshold".split()),
    *(
        unary(name, X, alpha=0.3, beta=0.7)
        for name in "clip sigmoid_hard linear_activation scaled_tanh".split()
    ),
    unary("prelu", X, alpha=np.array([0.1, -0.5, 2], np.float32)),
    unary(
        "softplus_parametric",
        X,
        alpha=np.array([0.1, 0.5, 2], np.float32),
        beta=np.array([1, 0.5, 2], np.float32),
    ),
    unary("thresholded_relu", X, alpha=0.5),
    *(unary("softmax", X, axis=axis) for axis in (1, -1)),
    # coremltools infers clamped_relu without the documented clamp for x < 0 and beta < 0.
    Case(
        "clamped_relu",
        lambda mb, x: mb.clamped_relu(x=x, alpha=0.3, beta=0.5),
        (X,),
        np.minimum(np.where(X >= 0, X, np.float32(0.3) * X), np.float32(0.5)),
    ),
    Case("silu", lambda mb, x: mb.silu(x=x), (X,), silu(X)),
    *(binary(name) for name in "add sub mul real_div maximum minimum mod floor_div".split()),
    *(binary(name, INTS, DIVISORS) for name in "add sub mul maximum minimum mod floor_div".split()),
    binary("pow", POSITIVE, Y),
    *(
        binary(name, INTS, np.array([-7, 4, 0], np.int32))
        for name in "equal not_equal greater greater_equal less less_equal".split()
    ),
    *(
        binary(name, TRUTH, np.array([True, True, False]))
        for name in "logical_and logical_or logical_xor".split()
    ),
    Case("select", lambda mb, c, a, b: mb.select(cond=c, a=a, b=b), (X > 0, X, np.float32(Y))),
    *(
        case
        for name in "l1_norm l2_norm log_sum log_sum_exp max mean min prod sum sum_square".split()
        for case in reduction(f"reduce_{name}")
    ),
    *(unary(name, INTS, axes=[1], keep_dims=False) for name in "reduce_sum reduce_max reduce_prod".split()),
    *(
        unary(name, X, axis=axis, keep_dims=keep)
        for name in ("reduce_argmax", "reduce_argmin")
        for axis, keep in ((1, True), (-1, False))
    ),
    unary("cast", X, dtype="int32"),
    unary("cast", X, dtype="bool"),
    unary("cast", INTS, dtype="fp32"),
]
ONE_TYPE = ("clip", "threshold-", "real_div", "mod", "floor_div")
"""Operations whose parameters must be float16 too, because a rounded operand may cross a step."""
HALVES = [
    half(case)
    for case in CASES
    if case.inputs[0].dtype == np.float32 and not case.name.startswith((*ONE_TYPE, "reduce_prod"))
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return evaluate([*CASES, *HALVES], tmp_path_factory.mktemp("mil"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation(case, results):
    for computed, expected in results[str(case)]:
        expected = np.asarray(expected)
        assert computed.shape == expected.shape
        np.testing.assert_allclose(computed, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", HALVES, ids=str)
def test_operation_in_float16(case, results):
    for computed, expected in results[str(case)]:
        assert computed.dtype.kind != "f" or computed.dtype == np.float16
        np.testing.assert_allclose(computed.astype(np.float32), expected, rtol=2e-3, atol=2e-3)
