"""Norms, softmaxes, reductions and sorting against torch and numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from coremltools.converters.mil import Builder as mb  # noqa: N813
from neural_networks import by_hand, evaluate, evaluate_all, from_mil, random, tensor

SHAPE = 2, 3, 4, 5


def close(results, expected):
    expected = np.asarray(expected)
    assert results.shape == (expected.shape or (1,))
    return np.allclose(results, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 7), (2, 3, 2, 4, 5)])
def test_batch_norm(shape):
    gamma, beta, mean, x = random(3), random(3, seed=1), random(3, seed=2), random(*shape)
    variance = np.abs(random(3, seed=3))
    spec = from_mil(
        lambda x: mb.batch_norm(x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=1e-3),
        shape,
    )
    expected = F.batch_norm(*map(tensor, (x, mean, variance, gamma, beta)), eps=1e-3)
    assert np.allclose(evaluate(spec, x), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 7)])
def test_instance_norm(shape):
    gamma, beta, x = random(3), random(3, seed=1), random(*shape)
    spec = from_mil(lambda x: mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=1e-3), shape)
    expected = F.instance_norm(tensor(x), weight=tensor(gamma), bias=tensor(beta), eps=1e-3)
    assert np.allclose(evaluate(spec, x), expected, atol=1e-5)


def test_batch_norm_with_batch_statistics():
    gamma, beta, x = random(3), random(3, seed=1), random(*SHAPE)
    zeros = np.zeros(3, np.float32)
    spec = by_hand(
        lambda b: b.add_batchnorm("n", 3, gamma, beta, zeros, zeros, "x0", "y", epsilon=1e-3), SHAPE
    )
    spec.neuralNetwork.layers[
        0
    ].batchnorm.computeMeanVar = True  # the builder refuses it, the format does not
    expected = F.batch_norm(tensor(x), None, None, tensor(gamma), tensor(beta), training=True, eps=1e-3)
    assert np.allclose(evaluate(spec, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axes"), [((4, 6), [-1]), ((2, 4, 6), [-1]), ((2, 3, 4, 6), [-1]), ((2, 3, 4, 6), [2, 3])]
)
def test_layer_norm(shape, axes):
    normalized = [shape[axis] for axis in axes]
    gamma, beta, x = random(*normalized), random(*normalized, seed=1), random(*shape)
    spec = from_mil(lambda x: mb.layer_norm(x=x, axes=axes, gamma=gamma, beta=beta, epsilon=1e-3), shape)
    expected = F.layer_norm(tensor(x), normalized, tensor(gamma), tensor(beta), 1e-3)
    assert np.allclose(evaluate(spec, x), expected, atol=1e-5)


def test_layer_norm_layer():
    gamma, beta, x = random(4, 5), random(4, 5, seed=1), random(*SHAPE)
    spec = by_hand(lambda b: b.add_layer_normalization("n", "x0", "y", [4, 5], gamma, beta, 1e-3), SHAPE)
    assert np.allclose(
        evaluate(spec, x), F.layer_norm(tensor(x), [4, 5], tensor(gamma), tensor(beta), 1e-3), atol=1e-5
    )


def test_mean_variance():
    x = random(*SHAPE)
    spec = by_hand(lambda b: b.add_mvn("n", "x0", "y", True, True, 1e-2), SHAPE)
    mean, variance = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
    assert close(evaluate(spec, x), (x - mean) / np.sqrt(variance + 1e-2))
    spec = by_hand(lambda b: b.add_mvn("n", "x0", "y", False, False), SHAPE)
    assert close(evaluate(spec, x), x - x.mean((2, 3), keepdims=True))


def test_local_response_norm():
    x = random(2, 7, 3, 4)
    spec = from_mil(lambda x: mb.local_response_norm(x=x, size=5, alpha=0.4, beta=0.75, k=2.0), x.shape)
    assert close(evaluate(spec, x), F.local_response_norm(tensor(x), 5, 0.4, 0.75, 2.0))


def test_l2_norm():
    x = random(*SHAPE)
    spec = from_mil(lambda x: mb.l2_norm(x=x, epsilon=0.1), SHAPE)
    assert close(evaluate(spec, x), x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 0.1))


@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_softmax(axis):
    x = random(*SHAPE)
    spec = from_mil(lambda x: mb.softmax(x=x, axis=axis), SHAPE)
    assert close(evaluate(spec, x), torch.softmax(tensor(x), axis))


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4, 5), (3, 4, 5)])
def test_scale_and_bias(shape):
    scale, bias, x = random(*shape), random(*shape, seed=1), random(*SHAPE)
    wide = (-1, 1, 1) if len(shape) == 1 else shape
    spec = by_hand(
        lambda b: b.add_scale("s", scale, bias, True, "x0", "y", shape_scale=shape, shape_bias=shape), SHAPE
    )
    assert close(evaluate(spec, x), x * scale.reshape(wide) + bias.reshape(wide))
    spec = by_hand(lambda b: b.add_bias("s", bias, "x0", "y", shape_bias=shape), SHAPE)
    assert close(evaluate(spec, x), x + bias.reshape(wide))


REDUCTIONS = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "l1_norm": lambda x, axes, keepdims: np.abs(x).sum(axes, keepdims=keepdims),
    "l2_norm": lambda x, axes, keepdims: np.sqrt((x**2).sum(axes, keepdims=keepdims)),
    "sum_square": lambda x, axes, keepdims: (x**2).sum(axes, keepdims=keepdims),
    "log_sum": lambda x, axes, keepdims: np.log(x.sum(axes, keepdims=keepdims)),
    "log_sum_exp": lambda x, axes, keepdims: np.log(np.exp(x).sum(axes, keepdims=keepdims)),
}


@pytest.mark.parametrize(("axes", "keep"), [([1], True), ([-1, 0], False), ([0, 1, 2, 3], False)])
def test_reductions(axes, keep):
    x = np.abs(random(*SHAPE))
    operations = {
        name: lambda x, name=name: getattr(mb, f"reduce_{name}")(x=x, axes=axes, keep_dims=keep)
        for name in REDUCTIONS
    }
    results = evaluate_all(operations, x)
    for name, expected in REDUCTIONS.items():
        assert close(results[name], expected(x, tuple(axes), keepdims=keep)), name


OLD = {"sum": np.sum, "avg": np.mean, "prod": np.prod, "max": np.max, "min": np.min}


@pytest.mark.parametrize("mode", OLD)
@pytest.mark.parametrize(("axis", "axes"), [("CHW", (1, 2, 3)), ("HW", (2, 3)), ("C", 1), ("H", 2), ("W", 3)])
def test_older_reduction(mode, axis, axes):
    x = random(*SHAPE)
    spec = by_hand(lambda b: b.add_reduce("r", "x0", "y", axis, mode), SHAPE)
    assert close(evaluate(spec, x), OLD[mode](x, axes, keepdims=True))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_arg(name, keep):
    x = random(*SHAPE)
    spec = from_mil(lambda x: getattr(mb, f"reduce_{name}")(x=x, axis=2, keep_dims=keep), SHAPE)
    assert close(evaluate(spec, x), getattr(np, name)(x, 2, keepdims=keep))


@pytest.mark.parametrize("ascending", [False, True])
def test_sorting(ascending):
    x = random(*SHAPE)
    order = np.argsort(x if ascending else -x, 1)
    spec = from_mil(lambda x: mb.argsort(x=x, axis=1, ascending=ascending), SHAPE)
    assert close(evaluate(spec, x), order)
    spec = from_mil(lambda x: mb.topk(x=x, k=2, axis=1, ascending=ascending), SHAPE)
    values, indices = evaluate(spec, x)
    assert close(indices, order[:, :2])
    assert close(values, np.take_along_axis(x, order[:, :2], 1))


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumulative_sum(exclusive, reverse):
    x = random(*SHAPE)
    spec = from_mil(lambda x: mb.cumsum(x=x, axis=1, exclusive=exclusive, reverse=reverse), SHAPE)
    y = np.flip(x, 1) if reverse else x
    expected = np.cumsum(y, 1) - (y if exclusive else 0)
    assert close(evaluate(spec, x), np.flip(expected, 1) if reverse else expected)
