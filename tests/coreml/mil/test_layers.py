"""Convolutions, pooling, normalizations, matrix products and recurrent layers against independent formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mil_programs import Case, evaluate, half

_RNG = np.random.default_rng(2)


def normal(*shape: int) -> np.ndarray:
    return _RNG.normal(size=shape).astype(np.float32)


def convolve(
    x: np.ndarray,
    weight: np.ndarray,
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...],
    groups: int = 1,
) -> np.ndarray:
    """A convolution by its definition: a loop over positions."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *pads))
    reach = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    sizes = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, strides, strict=True)]
    result = np.zeros((len(x), len(weight), *sizes))
    per_group = len(weight) // groups
    for place in np.ndindex(*sizes):
        window = tuple(
            slice(p * s, p * s + r, d) for p, s, r, d in zip(place, strides, reach, dilations, strict=True)
        )
        patch = x[(slice(None), slice(None), *window)]
        for group in range(groups):
            own = slice(group * per_group, (group + 1) * per_group)
            channels = slice(group * weight.shape[1], (group + 1) * weight.shape[1])
            result[(slice(None), own, *place)] = (
                np.einsum("nc...,oc...->no...", patch[:, channels], weight[own])
                .reshape(len(x), per_group, -1)
                .sum(-1)
            )
    return result


def conv(
    name: str,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
    **options: object,
) -> Case:
    dilations = dilations or (1,) * len(size)
    x, weight, bias = normal(2, 4, *size), normal(6, 4 // groups, *kernel), normal(6)
    expected = convolve(x, weight, strides, pads, dilations, groups) + bias.reshape(-1, *[1] * len(size))

    def build(mb, x):
        return mb.conv(
            x=x, weight=weight, bias=bias, strides=strides, dilations=dilations, groups=groups, **options
        )

    return Case(f"conv-{name}", build, (x,), expected)


def transpose_case(
    name: str, size: tuple[int, ...], cut: tuple[tuple[int, int], ...], **options: object
) -> Case:
    """conv_transpose scatters each element times the kernel; `cut` is cropped at the ends."""
    rank, strides, dilations = len(size), (2,) * len(size), options.get("dilations", (1,) * len(size))
    x, weight, bias = normal(2, 4, *size), normal(4, 3, *(3,) * rank), normal(6)
    whole = np.zeros((2, 6, *((n - 1) * 2 + 2 * d + 1 for n, d in zip(size, dilations, strict=True))))
    for place in np.ndindex(*size):
        window = tuple(slice(p * 2, p * 2 + 2 * d + 1, d) for p, d in zip(place, dilations, strict=True))
        for group in range(2):
            part = x[(slice(None), slice(2 * group, 2 * group + 2), *place)]
            spread = np.einsum("nc,co...->no...", part, weight[2 * group : 2 * group + 2].astype(np.float64))
            whole[(slice(None), slice(3 * group, 3 * group + 3), *window)] += spread
    rest = tuple(slice(before, n - after) for (before, after), n in zip(cut, whole.shape[2:], strict=True))
    expected = whole[(slice(None), slice(None), *rest)] + bias.reshape(-1, *[1] * rank)

    def build(mb, x):
        return mb.conv_transpose(x=x, weight=weight, bias=bias, strides=strides, groups=2, **options)

    return Case(f"conv_transpose-{name}", build, (x,), expected)


def pool_case(
    kind: str,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    counts: np.ndarray | None = None,
    **options: object,
) -> Case:
    """Pooling by its definition; `counts` are the divisors of averages, by default the kernel's size."""
    x = normal(2, 3, *size)
    outside = -np.inf if kind == "max" else 0.0
    # Enough for every window, including ceil_mode's.
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *pads), constant_values=outside)
    padded = np.pad(padded, ((0, 0), (0, 0), *((0, k) for k in kernel)), constant_values=outside)
    rounding = math.ceil if options.get("ceil_mode") else math.floor
    sizes = [
        rounding((n + sum(p) - k) / s) + 1 for n, p, k, s in zip(size, pads, kernel, strides, strict=True)
    ]
    result = np.zeros((2, 3, *sizes))
    for place in np.ndindex(*sizes):
        window = tuple(slice(p * s, p * s + k) for p, s, k in zip(place, strides, kernel, strict=True))
        patch = padded[(slice(None), slice(None), *window)].reshape(2, 3, -1)
        reduce = {"max": patch.max(-1), "avg": patch.sum(-1), "l2": np.sqrt((patch**2).sum(-1))}
        result[(slice(None), slice(None), *place)] = reduce[kind]
    if kind == "avg":
        result /= math.prod(kernel) if counts is None else counts

    def build(mb, x):
        return getattr(mb, f"{kind}_pool")(x=x, kernel_sizes=kernel, strides=strides, **options)

    label = ",".join(f"{key}={value}" for key, value in options.items())
    return Case(f"{kind}_pool{size}{kernel}{strides}({label})", build, (x,), result)


def layer_norm(x: np.ndarray, axes: tuple[int, ...], gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 0.01)
    return normal * gamma + beta


IMAGE = normal(2, 4, 5, 6)
VECTOR = {name: normal(4) for name in ("mean", "gamma", "beta")} | {"variance": np.abs(normal(4)) + 0.1}
COLUMN = {name: vector.reshape(4, 1, 1) for name, vector in VECTOR.items()}
GAMMA, BETA = normal(4, 5), normal(4, 5)
QUERY, KEY, VALUE = normal(2, 3, 4, 8), normal(2, 3, 5, 8), normal(2, 3, 5, 7)
MASK = np.array([[True, True, False, True, False]])
A, B = normal(3, 4, 5), normal(2, 1, 6, 4)


def attention(bias: np.ndarray) -> np.ndarray:
    scores = QUERY.astype(np.float64) @ KEY.swapaxes(-1, -2) / np.sqrt(8) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ VALUE


def local_response(x: np.ndarray, size: int) -> np.ndarray:
    squares = np.pad(x.astype(np.float64) ** 2, ((0, 0), (size // 2, size // 2), (0, 0), (0, 0)))
    sums = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    return x / (2 + 0.5 / size * sums) ** 0.6


def lstm(bidirectional: bool, sequence: bool, direction: str = "forward") -> Case:
    """torch's gates are i, f, g, o; MIL's i, f, o, g."""
    torch.manual_seed(0)
    layer = torch.nn.LSTM(3, 4, bidirectional=bidirectional)
    x, h, c = torch.randn(5, 2, 3), torch.randn(1 + bidirectional, 2, 4), torch.randn(1 + bidirectional, 2, 4)
    reverse = direction == "reverse"
    with torch.no_grad():
        states, (h_n, c_n) = layer(x.flip(0) if reverse else x, (h, c))
    states = states.flip(0) if reverse else states
    parameters = {name: value.detach() for name, value in layer.named_parameters()}

    def mil_order(name: str, suffix: str) -> np.ndarray:
        i, f, g, o = parameters[f"{name}_l0{suffix}"].chunk(4)
        return torch.cat([i, f, o, g]).numpy()

    def build(mb, x, h, c):
        options = {
            f"{key}{back}": value
            for back, suffix in (("", ""), ("_back", "_reverse"))[: 1 + bidirectional]
            for key, value in {
                "weight_ih": mil_order("weight_ih", suffix),
                "weight_hh": mil_order("weight_hh", suffix),
                "bias": mil_order("bias_ih", suffix) + mil_order("bias_hh", suffix),
            }.items()
        }
        way = "bidirectional" if bidirectional else direction
        return mb.lstm(x=x, initial_h=h, initial_c=c, direction=way, output_sequence=sequence, **options)

    def flat(state: torch.Tensor) -> np.ndarray:
        return torch.cat(list(state), 1).numpy()

    last = h_n if not bidirectional else torch.cat(list(h_n), 1).unsqueeze(0)
    expected = (states if sequence else last).numpy(), flat(h_n), flat(c_n)
    return Case(
        f"lstm-{bidirectional}-{sequence}-{direction}", build, (x.numpy(), flat(h), flat(c)), expected
    )


CASES = [
    conv("valid", (7, 8), (3, 2), (2, 1), ((0, 0), (0, 0)), pad_type="valid"),
    conv("asymmetric", (7, 8), (3, 2), (2, 2), ((2, 0), (1, 3)), pad_type="custom", pad=(2, 0, 1, 3)),
    conv("same-even", (7, 8), (2, 4), (1, 1), ((0, 1), (1, 2)), pad_type="same"),
    conv("same-stride", (7, 8), (3, 3), (2, 2), ((1, 1), (0, 1)), pad_type="same"),
    conv("same_lower", (7, 8), (2, 3), (1, 2), ((1, 0), (1, 0)), pad_type="same_lower"),
    conv("dilated", (9, 9), (3, 3), (1, 2), ((2, 2), (0, 0)), (2, 3), pad_type="custom", pad=(2, 2, 0, 0)),
    conv("groups", (5, 5), (3, 3), (1, 1), ((0, 0), (0, 0)), groups=2, pad_type="valid"),
    conv("1d", (9,), (3,), (2,), ((1, 0),), pad_type="custom", pad=(1, 0)),
    conv("3d", (4, 5, 6), (2, 3, 2), (1, 2, 1), ((0, 0),) * 3, pad_type="valid"),
    transpose_case("valid", (3, 4), ((0, 0), (0, 0)), pad_type="valid"),
    transpose_case("custom", (3, 4), ((1, 0), (2, 1)), pad_type="custom", pad=(1, 0, 2, 1)),
    transpose_case("same", (3, 4), ((0, 1), (0, 1)), pad_type="same"),
    transpose_case("dilated", (3, 4), ((0, 0), (0, 0)), pad_type="valid", dilations=(2, 1)),
    transpose_case("1d", (5,), ((1, 1),), pad_type="custom", pad=(1, 1)),
    transpose_case(
        "output_shape",
        (3, 4),
        ((1, 1), (0, 1)),
        pad_type="same",
        output_shape=np.array([2, 6, 5, 8], np.int32),
    ),
    pool_case("max", (6, 7), (3, 2), (2, 2), ((0, 0), (0, 0)), pad_type="valid"),
    pool_case("max", (6, 7), (3, 3), (2, 2), ((1, 0), (0, 2)), pad_type="custom", pad=(1, 0, 0, 2)),
    pool_case("max", (6, 7), (3, 3), (2, 2), ((0, 1), (1, 1)), pad_type="same"),
    pool_case("max", (6, 7), (3, 3), (2, 2), ((1, 0), (1, 1)), pad_type="same_lower"),
    pool_case("max", (6, 6), (3, 3), (2, 2), ((0, 0), (0, 0)), pad_type="valid", ceil_mode=True),
    pool_case("max", (6, 6), (3, 3), (2, 2), ((1, 1),) * 2, pad_type="custom", pad=(1,) * 4, ceil_mode=True),
    pool_case("max", (9,), (3,), (2,), ((1, 1),), pad_type="custom", pad=(1, 1)),
    pool_case("max", (4, 5, 6), (2, 2, 3), (1, 2, 1), ((0, 0),) * 3, pad_type="valid"),
    pool_case("avg", (6, 7), (3, 2), (2, 2), ((0, 0), (0, 0)), pad_type="valid"),
    pool_case("avg", (9,), (3,), (2,), ((1, 1),), pad_type="custom", pad=(1, 1)),
    pool_case("avg", (4, 5, 6), (2, 2, 3), (1, 2, 1), ((0, 0),) * 3, pad_type="valid"),
    pool_case("avg", (6, 7), (3, 3), (2, 2), ((1, 0), (0, 2)), pad_type="custom", pad=(1, 0, 0, 2)),
    pool_case(
        "avg",
        (6, 6),
        (3, 3),
        (2, 2),
        ((1, 1),) * 2,
        np.outer([2, 3, 3], [2, 3, 3]),
        pad_type="custom",
        pad=(1,) * 4,
        exclude_padding_from_average=True,
    ),
    pool_case(
        "avg",
        (5, 6),
        (3, 3),
        (2, 2),
        ((1, 1), (0, 1)),
        np.outer([2, 3, 2], [3, 3, 2]),
        pad_type="same",
        exclude_padding_from_average=True,
    ),
    # The last window of 6 elements, padded by 1, reaches one element beyond the padding, which never counts.
    pool_case(
        "avg",
        (6, 6),
        (3, 3),
        (2, 2),
        ((1, 1),) * 2,
        np.outer([3, 3, 3, 2], [3, 3, 3, 2]),
        pad_type="custom",
        pad=(1,) * 4,
        ceil_mode=True,
    ),
    pool_case(
        "avg",
        (6, 6),
        (3, 3),
        (2, 2),
        ((1, 1),) * 2,
        np.outer([2, 3, 3, 1], [2, 3, 3, 1]),
        pad_type="custom",
        pad=(1,) * 4,
        ceil_mode=True,
        exclude_padding_from_average=True,
    ),
    pool_case("l2", (6, 7), (3, 2), (2, 2), ((1, 1), (0, 0)), pad_type="custom", pad=(1, 1, 0, 0)),
    Case(
        "batch_norm",
        lambda mb, x: mb.batch_norm(x=x, epsilon=0.01, **VECTOR),
        (IMAGE,),
        (IMAGE - COLUMN["mean"]) / np.sqrt(COLUMN["variance"] + 0.01) * COLUMN["gamma"] + COLUMN["beta"],
    ),
    Case(
        "instance_norm",
        lambda mb, x: mb.instance_norm(x=x, gamma=VECTOR["gamma"], beta=VECTOR["beta"], epsilon=0.01),
        (IMAGE,),
        layer_norm(IMAGE, (2, 3), COLUMN["gamma"], COLUMN["beta"]),
    ),
    Case(
        "layer_norm",
        lambda mb, x: mb.layer_norm(
            x=x, axes=[-1], gamma=normal(6) * 0 + 2, beta=normal(6) * 0 + 1, epsilon=0.01
        ),
        (IMAGE,),
        layer_norm(IMAGE, (3,), np.float64(2), np.float64(1)),
    ),
    Case(
        "layer_norm-inner",
        lambda mb, x: mb.layer_norm(x=x, axes=[1, 2], gamma=GAMMA, beta=BETA, epsilon=0.01),
        (IMAGE,),
        layer_norm(IMAGE, (1, 2), GAMMA[..., None], BETA[..., None]),
    ),
    Case("layer_norm-inferred", lambda mb, x: mb.layer_norm(x=x, axes=[1, -1], epsilon=0.1), (IMAGE,)),
    Case("l2_norm", lambda mb, x: mb.l2_norm(x=x, epsilon=0.1), (IMAGE,)),
    Case(
        "local_response_norm",
        lambda mb, x: mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.6, k=2.0),
        (IMAGE,),
        local_response(IMAGE, 3),
    ),
    Case("linear", lambda mb, x: mb.linear(x=x, weight=GAMMA, bias=VECTOR["beta"]), (normal(2, 3, 5),)),
    Case("matmul-x", lambda mb, x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True), (A, B)),
    Case("matmul-y", lambda mb, x, y: mb.matmul(x=x, y=y, transpose_y=True), (A, A[:1])),
    Case("matmul-row", lambda mb, x, y: mb.matmul(x=x, y=y), (normal(4), A[0])),
    Case(
        "einsum",
        lambda mb, x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        (normal(2, 3, 4, 5), normal(1, 5, 4, 6)),
    ),
    Case(
        "einsum-3",
        lambda mb, x, y: mb.einsum(values=(x, y), equation="chw,whr->chr"),
        (normal(3, 4, 5), normal(5, 4, 6)),
    ),
    Case(
        "attention-bool",
        lambda mb, q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
        (QUERY, KEY, VALUE, MASK),
        attention(np.where(MASK, 0, -np.inf)),
        "iOS18",
    ),
    Case(
        "attention-float",
        lambda mb, q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
        (QUERY, KEY, VALUE, QUERY[:, :, :, :5]),
        attention(QUERY[:, :, :, :5]),
        "iOS18",
    ),
    Case(
        "attention",
        lambda mb, q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v),
        (QUERY, KEY, VALUE),
        attention(np.zeros(())),
        "iOS18",
    ),
    lstm(False, True),
    lstm(False, False),
    lstm(False, True, "reverse"),
    lstm(True, True),
    lstm(True, False),
]
HALVES = [half(case) for case in CASES if not case.name.startswith(("lstm", "attention"))]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return evaluate([*CASES, *HALVES], tmp_path_factory.mktemp("mil"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operation(case, results):
    for computed, expected in results[str(case)]:
        expected = np.asarray(expected)
        assert computed.shape == expected.shape
        np.testing.assert_allclose(computed, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("case", HALVES, ids=str)
def test_operation_in_float16(case, results):
    for computed, expected in results[str(case)]:
        assert computed.dtype == np.float16
        np.testing.assert_allclose(computed.astype(np.float32), expected, rtol=5e-3, atol=2e-2)


def test_case_names_are_unique():
    assert len({str(case) for case in CASES}) == len(CASES)
