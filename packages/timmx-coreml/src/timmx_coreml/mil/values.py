"""Converts values for operations and checks results: dtypes, declared types, Python values."""

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
"""The types that the elements of a parameter may have, and whether it is a list."""


def check_parameters(operation: Operation, kernel: Kernel) -> None:
    """Refuse an operation with unknown or missing parameters."""
    for name, names in operation.arguments.items():
        if name not in kernel.parameters:
            raise not_evaluated(f"timmx does not know the parameter {name} of {operation}")
        if not names or (len(names) > 1 and kernel.parameters[name].kind not in _SEVERAL):
            raise damaged(f"the parameter {name} of {operation} has {len(names)} values")
    for name, parameter in kernel.parameters.items():
        if parameter.required and name not in operation.arguments:
            raise damaged(f"the parameter {name} of {operation} is missing")


def python_value(values: list[Any], operation: Operation, kernel: Kernel, name: str) -> Any:
    """Convert constants or small tensors to the kind of a parameter."""
    items = [value.tensor() if isinstance(value, Blob) else value for value in values]
    items = [value.tolist() if isinstance(value, torch.Tensor) else value for value in items]
    kind = kernel.parameters[name].kind
    value = items if kind in _SEVERAL else items[0]
    types, is_list = _PYTHON_KINDS[kind]
    elements = value if is_list else [value]
    # Not isinstance: a bool is an int in Python, but not here.
    if not isinstance(elements, list) or not all(type(element) in types for element in elements):
        raise damaged(f"the parameter {name} of {operation} must be {kind}, not {value!r}")
    return value


def widen(value: torch.Tensor) -> torch.Tensor:
    """Convert float16 to float32 and integers to int64, so that a result is rounded once."""
    if value.dtype in (torch.float32, torch.bool, torch.int64):
        return value
    return value.to(torch.float32 if value.is_floating_point() else torch.int64)


def cast(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert like MIL: floats to integers round toward zero, integers wrap around."""
    if value.dtype == dtype:
        return value
    if value.is_floating_point() and not dtype.is_floating_point and dtype != torch.bool:
        value = value.to(torch.int64)
    return value.to(dtype)


def check_type(value: torch.Tensor, declared: TensorType, operation: Operation, name: str) -> None:
    """Refuse a result that does not have its declared type."""
    kind = declared.data_type.torch
    if value.dtype != kind or (declared.shape is not None and not fits(value.shape, declared.shape)):
        raise damaged(
            f"the ML program is invalid: {operation} declares {name} as {type_text(kind, declared.shape)}, but "
            f"computes {type_text(value.dtype, value.shape)}"
        )


def fits(shape: torch.Size, declared: tuple[int | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        expected is None or size == expected for size, expected in zip(shape, declared, strict=True)
    )


def type_text(dtype: torch.dtype, shape: tuple[int | None, ...] | torch.Size | None) -> str:
    sizes = "any shape" if shape is None else f"({', '.join('?' if s is None else str(s) for s in shape)})"
    return f"{str(dtype).removeprefix('torch.')} {sizes}"
