"""Formats the values of a report by kind: percent, bytes, seconds, decibels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from timmx.base import size_text

if TYPE_CHECKING:
    from timmx.report.content import Kind

MISSING = "–"  # noqa: RUF001 - a dash, not a minus


def is_number(value: Any) -> bool:
    """Whether a value can be plotted and sorted as a number: not None, NaN or text."""
    if value is None or isinstance(value, str | bytes) or _is_nan(value):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def written(value: Any, kind: Kind) -> str:
    """The value as text; a dash if it is missing."""
    if value is None or value == "" or _is_nan(value):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if kind == "text" or not is_number(value):
        return str(value)
    number = float(value)
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"  # noqa: RUF001 - a minus
    text = _FORMATS[kind](number)
    return text.replace("-", "−") if number < 0 else text  # noqa: RUF001 - a minus


def _is_nan(value: Any) -> bool:
    """Whether a value is a NaN of Python or numpy: only NaN differs from itself."""
    return bool(value != value)


def _number(value: float) -> str:
    """Up to four digits, but all digits of an integer."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4g}"


def _percent(value: float) -> str:
    percent = 100 * value
    return f"{percent:.1f} %" if percent == 0 or abs(percent) >= 0.1 else f"{percent:.2g} %"


def _ms(value: float) -> str:
    if value and abs(value) < 0.9995:
        return f"{value:.3f} ms" if abs(value) >= 0.01 else f"{value:.2g} ms"
    return f"{value:.2f} ms" if abs(value) < 100 else f"{value:,.0f} ms"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if abs(value) < 100 else f"{value:,.0f} s"


def _db(value: float) -> str:
    return f"{value:.1f} dB"


_FORMATS = {"number": _number, "percent": _percent, "bytes": size_text, "ms": _ms, "s": _seconds, "db": _db}
