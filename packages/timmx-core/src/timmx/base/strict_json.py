"""JSON of files whose origin is unknown, read within limits."""

from __future__ import annotations

import json
import math
from typing import Any

from timmx.base.text import is_utf8, shown

_DEPTH = 64
_INTEGER = 2**63


def parse_json(text: str | bytes, *, any_name: bool = False) -> Any:
    """The value of a JSON text, which any later code can copy, print and store as UTF-8.

    Args:
        text: the JSON text.
        any_name: allow file names that are not UTF-8, as surrogates.

    Raises:
        ValueError: the text is not JSON (`json.JSONDecodeError`, with the position); or it has a repeated key, an
            infinite or undefined number, an integer of more than 64 bits, half of a surrogate pair, more than
            64 levels of lists and objects, or too many values.
    """
    require_few_values(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_repeats,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check(value, any_name)
    return value


def require_few_values(text: str | bytes) -> None:
    """Check the number of values in a JSON text before it is parsed: `{}` takes 30 times the memory of its text.

    Raises:
        ValueError: there may be more than 4 million; commas and brackets in texts count too.
    """
    if isinstance(text, bytes):
        count = sum(map(text.count, (b",", b"[", b"{")))
    else:
        count = sum(map(text.count, (",", "[", "{")))
    if count > _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES:,} values")


_MOST_VALUES = 4_000_000

_TOO_DEEP = f"more than {_DEPTH} levels of lists and objects"


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"{brief(key)} is given twice")
            seen.add(key)
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {brief(text)} is too large")
    return number


def _integer(text: str) -> int:
    number = int(text) if len(text) < 24 else _INTEGER
    if not -_INTEGER <= number < _INTEGER:
        raise ValueError(f"the number {brief(text)} is too large")
    return number


def _check(value: Any, any_name: bool) -> None:
    level: list[Any] = [value]
    for _ in range(_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.keys()
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not any_name and not is_utf8(item):
                raise ValueError(
                    f"the text {brief(item)} has half of a surrogate pair, which is not a character"
                )
        if not below:
            return
        level = below
    raise ValueError(_TOO_DEEP)


def brief(value: object, most: int = 60) -> str:
    """A value of a file as it is written in messages: on one line, without control characters, and short."""
    text = _literal(value, most)
    return shown(text if len(text) <= most else f"{text[:most]}...")


def _literal(value: object, most: int) -> str:
    if isinstance(value, str):
        return repr(value[: most + 1])
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, (list, tuple)):
        parts = [_literal(item, most) for item in value[:most]]
        return f"[{', '.join(parts)}]"
    if isinstance(value, dict):
        return "an object" if value else "{}"
    return repr(value)
