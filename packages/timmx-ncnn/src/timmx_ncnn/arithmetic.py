"""Operations on single elements, on pairs of them, and along axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError

from timmx_ncnn.layers import Weight
from timmx_ncnn.translate import HINT, Translation, arguments, count, shape_of, translates, unary

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx_ncnn.layers import Value

aten = torch.ops.aten

ADD, SUB, MUL, DIV, MAX, MIN, POW, RSUB, RDIV, RPOW = range(10)
"""Types of `BinaryOp`."""

_UNARY = {
    aten.abs.default: 0,
    aten.neg.default: 1,
    aten.floor.default: 2,
    aten.ceil.default: 3,
    aten.square.default: 4,
    aten.sqrt.default: 5,
    aten.rsqrt.default: 6,
    aten.exp.default: 7,
    aten.log.default: 8,
    aten.sin.default: 9,
    aten.cos.default: 10,
    aten.reciprocal.default: 15,
    aten.round.default: 18,
    aten.sign.default: 20,
    aten.log1p.default: 27,
}
"""Types of `UnaryOp`."""

_KINDS: dict[Any, tuple[str, dict[int, float]]] = {
    aten.relu.default: ("ReLU", {}),
    aten.relu_.default: ("ReLU", {}),
    aten.sigmoid.default: ("Sigmoid", {}),
    aten.silu.default: ("Swish", {}),
    aten.silu_.default: ("Swish", {}),
    aten.tanh.default: ("TanH", {}),
    aten.mish.default: ("Mish", {}),
    aten.selu.default: ("SELU", {}),
    aten.erf.default: ("Erf", {}),
    aten.softplus.default: ("Softplus", {}),
    aten.hardswish.default: ("HardSwish", {0: 1 / 6, 1: 0.5}),
    aten.hardswish_.default: ("HardSwish", {0: 1 / 6, 1: 0.5}),
    aten.hardsigmoid.default: ("HardSigmoid", {0: 1 / 6, 1: 0.5}),
    aten.relu6.default: ("Clip", {0: 0.0, 1: 6.0}),
}


def activation(node: torch.fx.Node) -> tuple[str, dict[int, float]] | None:
    """The layer of an operation that changes single elements, and its parameters; None if it is another operation."""
    if node.target in _KINDS:
        return _KINDS[node.target]
    if node.target in _UNARY:
        return "UnaryOp", {0: _UNARY[node.target]}
    match node.target:
        case aten.gelu.default:
            return "GELU", {0: int(arguments(node)[1] == "tanh")}
        case aten.leaky_relu.default:
            return "ReLU", {0: float(arguments(node)[1])}
        case aten.elu.default:
            alpha, scale, input_scale = map(float, arguments(node)[1:])
            return ("ELU", {0: alpha}) if scale == input_scale == 1 else None
        case aten.hardtanh.default:
            low, high = map(float, arguments(node)[1:])
            return "Clip", {0: low, 1: high}
        case aten.clamp.default | aten.clamp_min.default | aten.clamp_max.default:
            lowest, highest = _limits(node)
            return "Clip", {
                number: float(limit) for number, limit in ((0, lowest), (1, highest)) if limit is not None
            }
    return None


def _limits(node: torch.fx.Node) -> tuple[float | None, float | None]:
    _, first, *rest = arguments(node)
    if node.target is aten.clamp_max.default:
        return None, first
    return first, rest[0] if rest else None


@translates(
    *_KINDS,
    *_UNARY,
    aten.gelu.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.hardtanh.default,
    aten.clamp.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
)
def _activation(t: Translation, node: torch.fx.Node) -> Value:
    layer = activation(node)
    if layer is None:
        raise UnsupportedError("ncnn's activation has other parameters", hint=HINT)
    return unary(t, node, *layer)


@translates(aten.prelu.default)
def _prelu(t: Translation, node: torch.fx.Node) -> Value:
    source = arguments(node)[0]
    value = t.take(source, t.frame(shape_of(source), 1)[0])
    slopes = t.weight(arguments(node)[1], "PReLU")
    return t.network.add(
        "PReLU", node.name, [value], value.shape, {0: slopes.size}, (Weight(slopes, tagged=False),)
    )


@translates(aten.clamp.Tensor)
def _clamp_by_constants(t: Translation, node: torch.fx.Node) -> Value:
    """Limits that are constants with one element, as those of Gemma's layers."""
    source, *limits = arguments(node)
    numbers = {place: _scalar(t, limit) for place, limit in enumerate(limits) if limit is not None}
    if None in numbers.values():
        raise UnsupportedError("limits with several elements are not translated", hint=HINT)
    value = t.take(source)
    return t.network.add("Clip", node.name, [value], value.shape, numbers)  # type: ignore[arg-type]


def _binary(kind: int) -> Callable[[Translation, torch.fx.Node], Value]:
    def function(t: Translation, node: torch.fx.Node) -> Value:
        first, second, *factor = arguments(node)
        if factor not in ([], [1]):
            raise UnsupportedError(f"ncnn has no sum with the factor {factor[0]}", hint=HINT)
        return combine(t, node, kind, first, second)

    return function


def combine(t: Translation, node: torch.fx.Node, kind: int, first: Any, second: Any) -> Value:
    """`BinaryOp` of two operands that broadcast, each a node or a number."""
    reverse = {SUB: RSUB, DIV: RDIV, POW: RPOW}.get(kind, kind)
    for one, other, used in ((first, second, kind), (second, first, reverse)):
        if (number := _scalar(t, other)) is not None:
            value = t.take(one)
            if value.shape != t.frame(shape_of(node))[0] and count(value.shape) != count(shape_of(node)):
                continue
            return t.network.add("BinaryOp", node.name, [value], value.shape, {0: used, 1: 1, 2: number})
    shape = shape_of(node)
    if shape_of(first) == shape_of(second):
        value = t.take(second if t.constant(first) is not None else first)
        operands = [t.take(first, value.shape), t.take(second, value.shape)]
        return t.network.add("BinaryOp", node.name, operands, value.shape, {0: kind})
    out, axes = t.frame(shape)
    operands = []
    for operand in (first, second):
        padded = (1,) * (len(shape) - len(shape_of(operand))) + shape_of(operand)
        aligned = tuple(padded[axis] for axis in axes) or (1,)
        operands.append(t.take(operand, aligned))
    return t.network.add("BinaryOp", node.name, operands, out, {0: kind})


def _scalar(t: Translation, operand: Any) -> float | None:
    """The number, if the operand is one or a constant with one element."""
    if isinstance(operand, torch.fx.Node):
        constant = t.constant(operand)
        return None if constant is None or constant.numel() != 1 else float(constant)
    return float(operand)


for _kind, _name in enumerate(("add", "sub", "mul", "div")):
    _packet = getattr(aten, _name)
    translates(_packet.Tensor, _packet.Scalar)(_binary(_kind))
translates(aten.maximum.default)(_binary(MAX))
translates(aten.minimum.default)(_binary(MIN))
translates(aten.add_.Tensor)(_binary(ADD))
translates(aten.mul_.Tensor)(_binary(MUL))


@translates(aten.rsub.Scalar)
def _rsub(t: Translation, node: torch.fx.Node) -> Value:
    return combine(t, node, RSUB, *arguments(node)[:2])


@translates(aten.pow.Tensor_Scalar)
def _pow(t: Translation, node: torch.fx.Node) -> Value:
    """Powers of negative numbers too, for which the kernels of CPUs, which use logarithms, return NaN."""
    exponent = arguments(node)[1]
    special = {2: 4, 0.5: 5, -0.5: 6, -1: 15}
    if exponent in special:
        return unary(t, node, "UnaryOp", {0: special[exponent]})
    if exponent in (3, 4):
        value = t.take(arguments(node)[0])
        square = t.network.add("UnaryOp", f"{node.name}_square", [value], value.shape, {0: 4})
        other = value if exponent == 3 else square
        return t.network.add("BinaryOp", node.name, [square, other], value.shape, {0: MUL})
    return unary(t, node, "BinaryOp", {0: POW, 1: 1, 2: float(exponent)})


_SUM, _MEAN, _MAX, _MIN, _L2 = 0, 3, 4, 5, 8
"""Types of `Reduction`."""


@translates(
    aten.mean.dim,
    aten.mean.default,
    aten.sum.dim_IntList,
    aten.sum.default,
    aten.amax.default,
    aten.amin.default,
)
def _reduction(t: Translation, node: torch.fx.Node) -> Value:
    kinds: dict[Any, int] = {
        aten.amax.default: _MAX,
        aten.amin.default: _MIN,
        aten.mean.dim: _MEAN,
        aten.mean.default: _MEAN,
    }
    kind = kinds.get(node.target, _SUM)
    dims = [] if node.target in (aten.mean.default, aten.sum.default) else arguments(node)[1]
    return reduce(t, node, kind, dims)


@translates(aten.max.dim, aten.min.dim)
def _extreme(t: Translation, node: torch.fx.Node) -> list[Value]:
    """The values; ncnn has no indices of them."""
    if any(user.args[1] for user in node.users):
        raise UnsupportedError("ncnn has no index of the largest or smallest value", hint=HINT)
    return [reduce(t, node, _MAX if node.target is aten.max.dim else _MIN, arguments(node)[1])]


@translates(aten.linalg_vector_norm.default)
def _vector_norm(t: Translation, node: torch.fx.Node) -> Value:
    _, order, dims, *_ = arguments(node)
    if order != 2:
        raise UnsupportedError(f"ncnn has no norm of order {order}", hint=HINT)
    return reduce(t, node, _L2, dims)


def reduce(t: Translation, node: torch.fx.Node, kind: int, dims: Any) -> Value:
    """`Reduction` along axes, all of them if `dims` is empty."""
    source = arguments(node)[0]
    shape = shape_of(source)
    reduced = {dim % len(shape) for dim in ([dims] if isinstance(dims, int) else dims or range(len(shape)))}
    if reduced == {2, 3} and len(shape) == 4 and shape[0] == 1 and kind in (_MEAN, _MAX):
        value = t.take(source, shape[1:])
        return t.network.add("Pooling", node.name, [value], (shape[1],), {0: int(kind == _MEAN), 4: 1})
    frame, axes = t.frame(shape)
    places = tuple(axes[axis] for axis in sorted(reduced) if axis in axes)
    value = t.take(source, frame)
    if not places:
        return value
    result = tuple(1 if place in places else size for place, size in enumerate(frame))
    return t.network.add("Reduction", node.name, [value], result, {0: kind, 1: 0, 3: places, 4: 1, 5: 1})


@translates(aten.softmax.int, aten._softmax.default)
def _softmax(t: Translation, node: torch.fx.Node) -> Value:
    source, dim = arguments(node)[:2]
    shape = shape_of(source)
    frame, axes = t.frame(shape, dim % len(shape))
    value = t.take(source, frame)
    return t.network.add("Softmax", node.name, [value], frame, {0: axes[dim % len(shape)], 1: 1})


@translates(aten.cumsum.default)
def _cumsum(t: Translation, node: torch.fx.Node) -> Value:
    source, dim = arguments(node)[:2]
    shape = shape_of(source)
    frame, axes = t.frame(shape, dim % len(shape))
    return t.network.add(
        "CumulativeSum", node.name, [t.take(source, frame)], frame, {0: axes[dim % len(shape)]}
    )
