"""Which values the preprocessing of an image may have, in a model's configuration and in an artifact's metadata."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_ELEMENTS = 2**31 - 1
"""Limit of one input: runtimes count elements in 32 bits, and as floats they take 8.6 GB before the model runs."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")
LEAST_CROP_PCT, MOST_CROP_PCT = 0.1, 10.0
"""timm's models have 0.875 to 1.15. At 0.1 the resized image has 100 times the pixels of the input."""

_LARGEST = 1e6
"""For pixels in [0, 1], timm's models have means up to 0.5 and standard deviations up to 1."""


@dataclass(frozen=True)
class Rule:
    """The values that a key may have.

    Attributes:
        allowed: in words.
        accepts: whether a value may be used.
    """

    allowed: str
    accepts: Callable[[Any], bool]


def is_integer(value: Any, smallest: int, largest: float = math.inf) -> bool:
    """Whether a value is an integer in this range."""
    return isinstance(value, int) and not isinstance(value, bool) and smallest <= value <= largest


def is_number(value: Any, smallest: float = -math.inf, largest: float = math.inf) -> bool:
    """Whether a value is a finite number in this range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(value, int) and value.bit_length() > 1000:  # too large for a float
        return False
    return math.isfinite(value) and smallest <= value <= largest


def is_size(value: Any) -> bool:
    """Whether a value is the channels, height and width of an input that a runtime can hold."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(is_integer(item, 1, MOST_ELEMENTS) for item in value)
        and math.prod(value) <= MOST_ELEMENTS
    )


def is_mean(value: Any) -> bool:
    """Whether a value can be subtracted from pixels in [0, 1]."""
    return is_number(value, -_LARGEST, _LARGEST)


def is_std(value: Any) -> bool:
    """Whether pixels in [0, 1] can be divided by a value."""
    return is_number(value, 1 / _LARGEST, _LARGEST)


SIZE = Rule("channels, height and width, integers of at least 1 with a product of at most 2**31 - 1", is_size)
INTERPOLATION = Rule(
    f"one of {', '.join(INTERPOLATIONS)}", lambda value: isinstance(value, str) and value in INTERPOLATIONS
)
CROP_MODE = Rule(
    f"one of {', '.join(CROP_MODES)}", lambda value: isinstance(value, str) and value in CROP_MODES
)
CROP_PCT = Rule(
    f"a number from {LEAST_CROP_PCT:g} to {MOST_CROP_PCT:g}",
    lambda value: is_number(value, LEAST_CROP_PCT, MOST_CROP_PCT),
)
MEAN = Rule(
    "a number from -1e6 to 1e6, or a list of them, one per channel", lambda value: _each(is_mean, value)
)
STD = Rule(
    "a number from 1e-6 to 1e6, or a list of them, one per channel", lambda value: _each(is_std, value)
)


def _each(accepts: Callable[[Any], bool], value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else (value,)
    return len(values) > 0 and all(map(accepts, values))
