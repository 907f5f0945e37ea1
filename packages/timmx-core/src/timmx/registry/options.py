"""Options, declared once as fields of a dataclass, for the command line, Python, recipes and the help."""

from __future__ import annotations

import difflib
import inspect
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from timmx.base import brief, check_path
from timmx.contract import Floats, Ints
from timmx.errors import ConfigurationError

Options = TypeVar("Options")

REQUIRED = inspect.Parameter.empty
"""Marks an option without a default."""


@dataclass(frozen=True, kw_only=True)
class OptionSpec:
    """One option: a field `name: Annotated[kind, typer.Option(...)] = default`.

    Attributes:
        name: its name in Python and recipes.
        kind: the type of its values, without None.
        optional: whether None is allowed.
        default: its default, or `REQUIRED`.
        flag: the flag that sets it, such as `--opset`; empty for an argument.
        off_flag: the flag that turns it off; empty if there is none.
        help: its help text.
        minimum: the smallest value; None if unlimited.
        maximum: the largest value; None if unlimited.
        declaration: Typer's option or argument.
    """

    name: str
    kind: Any
    optional: bool
    default: Any
    flag: str
    off_flag: str
    help: str
    minimum: float | None
    maximum: float | None
    declaration: Any

    def parameter(self, default: Any = REQUIRED, *, optional: bool = False) -> inspect.Parameter:
        """The parameter that Typer reads; an argument may be given by position.

        Args:
            default: replaces the option's own default.
            optional: allow None, with None as the default.
        """
        # A model is a name or a module in Python, and text on the command line.
        kind = str if self.kind is Any else self.kind
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY if self.flag else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None if optional else self.default if default is REQUIRED else default,
            annotation=Annotated[(kind | None if self.optional or optional else kind, self.declaration)],
        )

    def convert(self, value: Any) -> Any:
        """A Python value, checked as on the command line.

        Raises:
            ConfigurationError: the value has the wrong type, is out of range or is not among the choices.
        """
        if (value is None and self.optional) or self.kind is Any:
            return value
        if (
            self.name == "labels"
            and not isinstance(value, (str, os.PathLike))
            and isinstance(value, Iterable)
        ):
            return tuple(map(str, value))
        if self.name == "model_kwargs" and isinstance(value, Mapping):
            return dict(value)
        setting = f"{self.name}={brief(value)}"
        try:
            result = _convert(self.kind, value)
        except (TypeError, ValueError, OverflowError) as exc:
            if isinstance(self.kind, type) and issubclass(self.kind, StrEnum):
                close = _close(str(value), [member.value for member in self.kind])
                raise ConfigurationError(f"{setting} is not among the choices", hint=close) from exc
            expected = _describe(self.kind)
            raise ConfigurationError(f"{setting} is not {expected}", hint=f"give {expected}") from exc
        if isinstance(result, Path):
            check_path(result, self.flag or self.name)
        low, high = self.minimum, self.maximum
        if (low is not None and result < low) or (high is not None and result > high):
            bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
            raise ConfigurationError(f"{setting} is out of range", hint=f"give {' and '.join(bounds)}")
        return result

    def words(self, value: Any) -> list[str]:
        """The words of a command line that set this value."""
        if isinstance(value, bool):
            return [self.flag if value else self.off_flag]
        if isinstance(value, (Floats, Ints)):
            return [self.flag, ",".join(f"{item:g}" for item in value)]
        if isinstance(value, Mapping):
            return [word for key, item in value.items() for word in (self.flag, f"{key}={item!r}")]
        if isinstance(value, list):
            return [word for item in value for word in (self.flag, str(item))]
        if isinstance(value, tuple):
            return [self.flag, *map(str, value)]
        return [self.flag, str(value)]


@cache
def option_specs(cls: type) -> Mapping[str, OptionSpec]:
    """The options of a dataclass by name, in order.

    Raises:
        TypeError: a field is not declared as `Annotated[kind, typer.Option(...)]`.
    """
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: _spec(field.name, field.default, hints[field.name]) for field in fields(cls)}


def _spec(name: str, default: Any, annotated: Any) -> OptionSpec:
    annotation, *extras = get_args(annotated) if get_origin(annotated) is Annotated else (annotated,)
    declaration = next((extra for extra in extras if hasattr(extra, "param_decls")), None)
    if declaration is None:
        raise TypeError(f"the option {name} is not declared with Annotated[..., typer.Option(...)]")
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    # Inside Annotated, Typer stores the first spelling as the default.
    spellings = (declaration.default, *(declaration.param_decls or ()))
    flags = [text for text in spellings if isinstance(text, str) and text.startswith("-")]
    flag, _, off_flag = (flags[0] if flags else "").partition("/")
    return OptionSpec(
        name=name,
        kind=next(member for member in members if member is not type(None)),
        optional=type(None) in members,
        default=REQUIRED if default is MISSING else default,
        flag=flag,
        off_flag=off_flag,
        help=declaration.help or "",
        minimum=declaration.min,
        maximum=declaration.max,
        declaration=declaration,
    )


def build(cls: type[Options], values: Mapping[str, Any]) -> Options:
    """An options dataclass from Python values, checked as on the command line.

    Raises:
        ConfigurationError: a value of the wrong type, out of range or not among the choices.
    """
    specs = option_specs(cast("type", cls))
    return cls(**{name: specs[name].convert(value) for name, value in values.items()})


def set_signature(function: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> None:
    """Set the parameters that Typer and Python's help see, on a function that takes `**values`."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def reject_unknown(names: Iterable[str], options: Iterable[str], what: str) -> None:
    """Raise an error for a name that is not among the options, with similar names in the hint.

    Args:
        names: the names to check.
        options: the valid names.
        what: the command, for the message.

    Raises:
        ConfigurationError: at the first unknown name.
    """
    options = list(options)
    for name in names:
        if name not in options:
            raise ConfigurationError(f"{what} has no option {name!r}", hint=_close(name, options))


def _close(name: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, choices, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(sorted(choices))}"


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
