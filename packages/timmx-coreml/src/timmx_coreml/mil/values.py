"""A program's values on their way into an operation and out of it: dtypes, declared types, Python values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from timmx_coreml.errors import damaged, not_evaluated
from timmx_coreml.mil.blobs import Blob

if TYPE_CHECKING:
    from timmx_coreml.mil.operations import Kernel
    from timmx_coreml.mil.program import Operation, TensorType

_SEVERAL = ("Tensors", "IntTuple", "BoolTuple")
"""Kinds of parameters that take any number of arguments."""

_PYTHON_KINDS: dict[str, tuple[tuple[type, ...], bool]] = {
    "int": ((int,), False),
    "float": ((int, float), False),
    "str": ((str,), False),
    "bool": ((bool,), False),
    "Ints": ((int,), True),
    "Bools": ((bool,), True),
    "Labels": ((int, str), True),
    "IntTuple": ((int,), True),
    "BoolTuple": ((bool,), True),
}
"""What the elements of a parameter of a kind may be, and whether it is a list of them."""


def check_parameters(operation: Operation, kernel: Kernel) -> None:
    """Refuse an operation with parameters that are unknown or missing."""
    for name, names in operation.arguments.items():
        if name not in kernel.parameters:
            raise not_evaluated(f"timmx does not know the parameter {name} of {operation}")
        if not names or (len(names) > 1 and kernel.parameters[name].kind not in _SEVERAL):
            raise damaged(f"the parameter {name} of {operation} has {len(names)} values")
    for name, parameter in kernel.parameters.items():
        if parameter.required and name not in operation.arguments:
            raise damaged(f"the parameter {name} of {operation} is missing")


def python_value(values: list[Any], operation: Operation, kernel: Kernel, name: str) -> Any:
    """Constants, or small tensors, as what the parameter's annotation asks for."""
    plain = [value.tensor() if isinstance(value, Blob) else value for value in values]
    plain = [value.tolist() if isinstance(value, torch.Tensor) else value for value in plain]
    kind = kernel.parameters[name].kind
    value = plain if kind in _SEVERAL else plain[0]
    of, is_list = _PYTHON_KINDS[kind]
    items = value if is_list else [value]
    # A bool is an int to Python, and is none here.
    if not isinstance(items, list) or not all(type(item) in of for item in items):
        raise damaged(f"the parameter {name} of {operation} must be {kind}, not {value!r}")
    return value


def widen(value: torch.Tensor) -> torch.Tensor:
    """float16 as float32 and integers as int64, so that a result is rounded once."""
    if value.dtype in (torch.float32, torch.bool, torch.int64):
        return value
    return value.to(torch.float32 if value.is_floating_point() else torch.int64)


def cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As MIL's types convert: floats to integers towards zero, integers wrap around."""
    if value.dtype == dtype:
        return value
    if value.is_floating_point() and not dtype.is_floating_point and dtype != torch.bool:
        value = value.to(torch.int64)
    return value.to(dtype)


def check_type(value: torch.Tensor, declared: TensorType, operation: Operation, name: str) -> None:
    """Refuse a result that is not what the program declares."""
    kind = declared.data_type.torch
    if value.dtype != kind or (declared.shape is not None and not fits(value.shape, declared.shape)):
        raise damaged(
            f"the ML program is invalid: {operation} declares {name} as {say(kind, declared.shape)}, but computes "
            f"{say(value.dtype, value.shape)}"
        )


def fits(shape: torch.Size, declared: tuple[int | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        want is None or have == want for have, want in zip(shape, declared, strict=True)
    )


def say(dtype: torch.dtype, shape: tuple[int | None, ...] | torch.Size | None) -> str:
    sizes = "any shape" if shape is None else f"({', '.join('?' if s is None else str(s) for s in shape)})"
    return f"{str(dtype).removeprefix('torch.')} {sizes}"
