"""How Python values become options: checked as the command line would check them."""

from __future__ import annotations

import difflib
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from timmx.contract import Floats, Ints
from timmx.errors import ConfigurationError

Options = TypeVar("Options")


@cache
def option_types(cls: type) -> dict[str, Any]:
    """The fields of an options dataclass with their Annotated types."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def build(cls: type[Options], values: Mapping[str, Any]) -> Options:
    """An options dataclass from Python values, checked as the command line would check them.

    Raises:
        ConfigurationError: a value of the wrong type, out of range or not among the choices.
    """
    types_ = option_types(cast("type", cls))
    return cls(**{name: _coerce(name, types_[name], value) for name, value in values.items()})


def value_kind(annotated: Any) -> Any:
    """The type of an option's values, without Annotated and without None."""
    annotation = get_args(annotated)[0] if get_origin(annotated) is Annotated else annotated
    return next(member for member in _members(annotation) if member is not type(None))


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; of any other type itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def reject_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse names that are not known, saying which known ones are close.

    Raises:
        ConfigurationError: at the first unknown name.
    """
    known = list(known)
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{what} has no option {name!r}", hint=_close(name, known))


def defaults(cls: type) -> dict[str, Any]:
    """The default of each field that has one."""
    return {field.name: field.default for field in fields(cls) if field.default is not MISSING}


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(sorted(known))}"


def _coerce(name: str, annotated: Any, value: Any) -> Any:
    annotation, *extras = get_args(annotated) if get_origin(annotated) is Annotated else (annotated,)
    option = next((extra for extra in extras if hasattr(extra, "param_decls")), None)
    if value is None and type(None) in _members(annotation):
        return None
    if annotation is Any:
        return value
    kind = value_kind(annotated)
    if name == "labels" and not isinstance(value, (str, os.PathLike)) and isinstance(value, Iterable):
        return tuple(map(str, value))
    if name == "model_kwargs" and isinstance(value, Mapping):
        return dict(value)
    try:
        result = _convert(kind, value)
    except (TypeError, ValueError) as exc:
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            close = _close(str(value), [member.value for member in kind])
            raise ConfigurationError(f"{name}={value!r} is not among the choices", hint=close) from exc
        raise ConfigurationError(
            f"{name}={value!r} is not {_describe(kind)}", hint=f"give {_describe(kind)}"
        ) from exc
    low, high = getattr(option, "min", None), getattr(option, "max", None)
    if (low is not None and result < low) or (high is not None and result > high):
        bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
        raise ConfigurationError(f"{name}={value!r} is out of range", hint=f"give {' and '.join(bounds)}")
    return result


def _convert(kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError
        return [_convert(arguments[0], item) for item in value]
    if origin is tuple:
        items = tuple(value)
        if len(items) != len(arguments):
            raise ValueError
        return tuple(_convert(argument, item) for argument, item in zip(arguments, items, strict=True))
    if kind in (Floats, Ints):
        if isinstance(value, str):
            value = value.split(",")
            return kind(float(item) if kind is Floats else int(item) for item in value)
        item_kind = float if kind is Floats else int
        numbers = value if isinstance(value, Iterable) else (value,)
        return kind(_convert(item_kind, item) for item in numbers)
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if kind is int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError
        return int(value)
    if kind is float:
        if isinstance(value, (bool, str)):
            raise TypeError
        return float(value)
    if kind is str:
        if not isinstance(value, str):
            raise TypeError
        return str(value)
    if kind is Path:
        return Path(os.fspath(value)).expanduser()
    return kind(value)


def _describe(kind: Any) -> str:
    words = {bool: "True or False", int: "an integer", float: "a number", str: "text", Path: "a path"}
    words |= {Floats: "a sequence of numbers", Ints: "a sequence of integers"}
    if get_origin(kind) is tuple:
        return f"a tuple of {len(get_args(kind))} values"
    if get_origin(kind) is list:
        return "a list of text"
    return words.get(kind, str(kind))
