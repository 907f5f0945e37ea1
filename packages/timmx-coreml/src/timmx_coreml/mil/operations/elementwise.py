"""MIL's elementwise operations, with one operand and with two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from timmx_coreml.mil.operations.registry import operation

if TYPE_CHECKING:
    from collections.abc import Callable


def _register_unary(name: str, compute: Callable[[Tensor], Tensor]) -> None:
    def kernel(x: Tensor) -> Tensor:
        return compute(x)

    operation(name)(kernel)


def _register_binary(
    name: str, compute: Callable[[Tensor, Tensor], Tensor], result: str | torch.dtype = "x"
) -> None:
    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return compute(x, y)

    operation(name, result=result, alike=("x", "y"))(kernel)


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs,
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "ceil": torch.ceil,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "floor": torch.floor,
    "round": torch.round,  # half to even, as in MIL
    "sign": torch.sign,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
    "logical_not": torch.logical_not,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "real_div": torch.true_divide,
    "floor_div": torch.floor_divide,
    "mod": torch.remainder,  # the sign is the divisor's, as in MIL
    "pow": torch.pow,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}

_COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}

for _name, _compute in _UNARY.items():
    _register_unary(_name, _compute)
for _name, _compute_two in _BINARY.items():
    _register_binary(_name, _compute_two)
for _name, _compute_two in _COMPARISONS.items():
    _register_binary(_name, _compute_two, torch.bool)


@operation(result="dtype")
def cast(x: Tensor, dtype: str) -> Tensor:
    return x


@operation()
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x.clamp(min=alpha).clamp(max=beta)


@operation()
def threshold(x: Tensor, alpha: float) -> Tensor:
    return x.clamp(min=alpha)


@operation()
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    return 1 / (x + epsilon)


@operation()
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    return torch.log(x + epsilon)


@operation()
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    return 1 / torch.sqrt(x + epsilon)


@operation(result="a", alike=("a", "b"))
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond.bool(), a, b)
