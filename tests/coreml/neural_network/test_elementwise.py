"""Activations, arithmetic and comparisons against numpy's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from neural_networks import by_hand, evaluate, evaluate_all, from_mil, random
from timmx.errors import ArtifactError, UnsupportedError

SHAPE = 2, 3, 4, 5


def close(results, expected):
    expected = np.asarray(expected)
    assert results.shape == (expected.shape or (1,))
    return np.allclose(results, expected, rtol=1e-5, atol=1e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ALPHA = np.array([0.1, 0.5, -0.3], np.float32)
BETA = np.array([0.4, 2.0, 1.0], np.float32)
CHANNELS = -1, 1, 1

ACTIVATIONS = {
    "relu": ({}, lambda x: np.maximum(x, 0)),
    "relu6": ({}, lambda x: np.clip(x, 0, 6)),
    "leaky_relu": ({"alpha": 0.2}, lambda x: np.where(x >= 0, x, 0.2 * x)),
    "elu": ({"alpha": 0.7}, lambda x: np.where(x >= 0, x, 0.7 * (np.exp(x) - 1))),
    "thresholded_relu": ({"alpha": 0.5}, lambda x: np.where(x >= 0.5, x, 0)),
    "clamped_relu": ({"alpha": 0.2, "beta": 1.0}, lambda x: np.minimum(np.where(x >= 0, x, 0.2 * x), 1)),
    "prelu": (
        {"alpha": ALPHA},
        lambda x: np.where(x >= 0, x, ALPHA.reshape(CHANNELS) * x),
    ),
    "softplus_parametric": (
        {"alpha": ALPHA, "beta": BETA},
        lambda x: ALPHA.reshape(CHANNELS) * np.log(1 + np.exp(BETA.reshape(CHANNELS) * x)),
    ),
    "softplus": ({}, lambda x: np.log(1 + np.exp(x))),
    "softsign": ({}, lambda x: x / (1 + np.abs(x))),
    "sigmoid": ({}, sigmoid),
    "silu": ({}, lambda x: x * sigmoid(x)),
    "sigmoid_hard": ({"alpha": 0.3, "beta": 0.4}, lambda x: np.clip(0.3 * x + 0.4, 0, 1)),
    "tanh": ({}, np.tanh),
    "scaled_tanh": ({"alpha": 1.7, "beta": 0.6}, lambda x: 1.7 * np.tanh(0.6 * x)),
    "linear_activation": ({"alpha": 2.5, "beta": -1.0}, lambda x: 2.5 * x - 1),
    "clip": ({"alpha": -0.5, "beta": 0.8}, lambda x: np.clip(x, -0.5, 0.8)),
    "erf": ({}, np.vectorize(math.erf)),
    "square": ({}, np.square),
    "abs": ({}, np.abs),
    "ceil": ({}, np.ceil),
    "floor": ({}, np.floor),
    "round": ({}, np.round),
    "sign": ({}, np.sign),
    "exp": ({}, np.exp),
    "exp2": ({}, np.exp2),
    "sin": ({}, np.sin),
    "cos": ({}, np.cos),
    "tan": ({}, np.tan),
    "atan": ({}, np.arctan),
    "sinh": ({}, np.sinh),
    "cosh": ({}, np.cosh),
    "threshold": ({"alpha": 0.3}, lambda x: np.maximum(x, 0.3)),
}


@pytest.fixture(scope="module")
def functions():
    x = random(*SHAPE) * 3
    operations = {
        name: lambda x, name=name, options=options: getattr(mb, name)(x=x, **options)
        for name, (options, _) in ACTIVATIONS.items()
    }
    return x, evaluate_all(operations, x)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_function(functions, name):
    x, results = functions
    assert close(results[name], ACTIVATIONS[name][1](x))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("EXACT", lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
        (
            "TANH_APPROXIMATION",
            lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ),
        ("SIGMOID_APPROXIMATION", lambda x: x * sigmoid(1.702 * x)),
    ],
)
def test_gelu(mode, expected):
    x = random(*SHAPE) * 3
    assert close(evaluate(from_mil(lambda x: mb.gelu(x=x, mode=mode), SHAPE), x), expected(x))


POSITIVE = {
    "sqrt": ({}, np.sqrt),
    "rsqrt": ({"epsilon": 0.1}, lambda x: 1 / np.sqrt(x + 0.1)),
    "inverse": ({"epsilon": 0.1}, lambda x: 1 / (x + 0.1)),
    "log": ({}, np.log),
    "acos": ({}, np.arccos),
    "asin": ({}, np.arcsin),
    "atanh": ({}, np.arctanh),
}


@pytest.fixture(scope="module")
def functions_of_small_numbers():
    x = np.random.default_rng(0).uniform(0.05, 0.95, SHAPE).astype(np.float32)
    operations = {
        name: lambda x, name=name, options=options: getattr(mb, name)(x=x, **options)
        for name, (options, _) in POSITIVE.items()
    }
    return x, evaluate_all(operations, x)


@pytest.mark.parametrize("name", POSITIVE)
def test_function_of_small_numbers(functions_of_small_numbers, name):
    x, results = functions_of_small_numbers
    assert close(results[name], POSITIVE[name][1](x))


def test_unary_shifts_and_scales_first():
    x = random(*SHAPE)
    spec = by_hand(lambda b: b.add_unary("u", "x0", "y", "power", alpha=2, shift=0.5, scale=-3), SHAPE)
    assert close(evaluate(spec, x), (-3 * x + 0.5) ** 2)


BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.divide,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
}
PAIRS = [
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 3, 4, 5), (1, 3, 1, 1)),
    ((1, 3, 1, 1), (2, 3, 4, 5)),
    ((2, 3, 1, 5), (3, 4, 1)),
    ((4, 5), (5,)),
    ((2, 1, 3, 4, 5), (2, 3, 1, 4, 1)),
]


@pytest.mark.parametrize("shapes", PAIRS)
def test_arithmetic_broadcasts(shapes):
    # Integers, many of them equal, and positive for the power; plus a quarter so that no quotient is an integer.
    a, b = np.round(np.abs(random(*shapes[0]) * 2)) + 0.25, np.round(random(*shapes[1], seed=1) * 2) + 0.25
    operations = {name: lambda x, y, name=name: getattr(mb, name)(x=x, y=y) for name in BINARY}
    results = evaluate_all(operations, a, b)
    for name, expected in BINARY.items():
        assert close(results[name], expected(a, b)), name


@pytest.mark.parametrize("constant_first", [False, True])
def test_arithmetic_with_a_constant(constant_first):
    x, one = np.round(np.abs(random(*SHAPE) * 2)) + 0.25, np.float32(1.25)

    def operation(x, name):
        pair = {"x": one, "y": x} if constant_first else {"x": x, "y": one}
        return getattr(mb, name)(**pair)

    results = evaluate_all({name: lambda x, name=name: operation(x, name) for name in BINARY}, x)
    for name, expected in BINARY.items():
        assert close(results[name], expected(one, x) if constant_first else expected(x, one)), name


@pytest.mark.parametrize("name", ["and", "or", "xor", "not"])
def test_logic(name):
    a, b = np.round(random(*SHAPE)), np.round(random(*SHAPE, seed=1))

    def add(builder):
        builder.add_logical("l", ["x0"] if name == "not" else ["x0", "x1"], "y", name.upper())

    expected = np.logical_not(a) if name == "not" else getattr(np, f"logical_{name}")(a, b)
    shapes = [SHAPE] if name == "not" else [SHAPE, SHAPE]
    assert close(evaluate(by_hand(add, *shapes), *[a, b][: len(shapes)]), expected)


def test_where():
    c, a, b = np.round(random(2, 1, 5)), random(3, 1), random(2, 3, 5)
    spec = by_hand(
        lambda b: b.add_where_broadcastable("w", ["x0", "x1", "x2"], "y"), c.shape, a.shape, b.shape
    )
    assert close(evaluate(spec, c, a, b), np.where(c != 0, a, b))


def test_older_arithmetic_takes_several_inputs():
    arrays = [random(*SHAPE, seed=i) for i in range(3)]
    for mode, expected in (
        ("ADD", arrays[0] + arrays[1] + arrays[2]),
        ("MULTIPLY", arrays[0] * arrays[1] * arrays[2]),
        ("AVE", (arrays[0] + arrays[1] + arrays[2]) / 3),
        ("MAX", np.maximum.reduce(arrays)),
        ("MIN", np.minimum.reduce(arrays)),
    ):
        spec = by_hand(
            lambda b, mode=mode: b.add_elementwise("e", ["x0", "x1", "x2"], "y", mode), *[SHAPE] * 3
        )
        assert close(evaluate(spec, *arrays), expected)


def test_older_arithmetic_has_limited_broadcasting():
    spec = by_hand(lambda b: b.add_elementwise("sum", ["x0", "x1"], "y", "ADD"), (2, 1, 4), (1, 3, 4))
    with pytest.raises(UnsupportedError, match=r"'sum' \(add\).*none .* shape \(2, 3, 4\)"):
        evaluate(spec, random(2, 1, 4), random(1, 3, 4))


def test_activation_without_a_function_is_reported():
    spec = by_hand(lambda b: b.add_activation("act", "RELU", "x0", "y"), SHAPE)
    spec.neuralNetwork.layers[0].activation.ClearField("ReLU")
    with pytest.raises(ArtifactError, match="'act'"):
        evaluate(spec, random(*SHAPE))
