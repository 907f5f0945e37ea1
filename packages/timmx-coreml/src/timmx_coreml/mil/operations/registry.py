"""The registry of operations: each is a function with the parameters of the MIL operation.

A parameter's annotation defines how its value is passed. `Tensor`: float16 is widened to float32 and integers to
int64, so that a result is rounded once, by the evaluator. `int`, `float`, `str`, `bool` and lists of them: Python
values; the tuples take several scalars. A parameter without a default is required; one that the function does not
have is unknown.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Tensors = list[torch.Tensor]
Ints = list[int]
Bools = list[bool]
Labels = list[Any]
IntTuple = list[int]
BoolTuple = list[bool]

Result = str | torch.dtype
"""A result's data type: a dtype, or the name of a parameter of that type; `a|b` is the one that is not constant."""

_KINDS = {
    "Tensor",
    "Tensors",
    "Ints",
    "Bools",
    "Labels",
    "IntTuple",
    "BoolTuple",
    "int",
    "float",
    "str",
    "bool",
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operation.

    Attributes:
        kind: the annotation, one of `_KINDS`.
        default: the value if the program does not set it.
        required: whether it has no default.
    """

    kind: str
    default: Any
    required: bool


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """An operation that timmx can evaluate.

    Attributes:
        function: takes the parameters, returns one tensor per result.
        parameters: the parameters by name.
        results: the data types of the results; a single one applies to all.
        raw: tensors are passed as stored: the operation only moves values, or widens them itself.
        alike: parameters whose tensors must have the same data type.
        opset: the function also takes the opset, 5 (iOS 15) to 9 (iOS 26).
    """

    function: Callable[..., Any]
    parameters: dict[str, Parameter]
    results: tuple[Result, ...]
    raw: bool
    alike: tuple[str, ...]
    opset: bool


KERNELS: dict[str, Kernel] = {}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def operation(
    *names: str,
    result: Result | tuple[Result, ...] = "x",
    raw: bool = False,
    alike: tuple[str, ...] = (),
) -> Callable[[_Function], _Function]:
    """Register a function for the MIL operations `names`; by default for the operation with the function's name."""

    def register(function: _Function) -> _Function:
        parameters = {}
        signature = inspect.signature(function)
        for name, parameter in signature.parameters.items():
            kind = str(parameter.annotation).removesuffix(" | None")
            required = parameter.default is inspect.Parameter.empty
            if name == "opset":
                continue
            if kind not in _KINDS:
                raise TypeError(f"{function.__name__}: parameter {name} cannot be {kind}.")
            parameters[name] = Parameter(kind, None if required else parameter.default, required)
        kernel = Kernel(
            function=function,
            parameters=parameters,
            results=result if isinstance(result, tuple) else (result,),
            raw=raw,
            alike=alike,
            opset="opset" in signature.parameters,
        )
        for name in names or (function.__name__.strip("_"),):
            if name in KERNELS:
                raise TypeError(f"The MIL operation {name} is registered twice.")
            KERNELS[name] = kernel
        return function

    return register
