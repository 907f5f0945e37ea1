"""How messages write counts, sizes and names that are not UTF-8."""

from __future__ import annotations

import re

_NO_CHARACTER = re.compile(r"[\ud800-\udfff]")
"""A half of a character. Python has a byte of a file's name that is no UTF-8 as one of DC80 to DCFF (PEP 383)."""


def printable(text: str, backslash: str = "\\") -> str:
    """The text with what cannot be written as UTF-8 spelled out: a byte of a file's name as `\\xff`."""
    return _NO_CHARACTER.sub(lambda found: backslash + _digits(ord(found[0])), text)


def _digits(code: int) -> str:
    return f"x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"u{code:04x}"


def is_utf8(text: str) -> bool:
    """Whether a file's name can be told to a runtime; on POSIX a name is any bytes."""
    return _NO_CHARACTER.search(text) is None


def counted(count: int, one: str, many: str = "") -> str:
    """A number and what it counts, such as `1 image` and `1,200 images`; `many` where the plural is no `s`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def size_text(size_bytes: float) -> str:
    """A size as a person reads it, such as `1.23 MB`."""
    for unit in ("B", "kB", "MB"):
        if abs(size_bytes) < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB" if abs(size_bytes) < 999.5 else f"{size_bytes:,.0f} GB"


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What ends a line, moves the cursor, changes colours or turns the direction of what follows it."""


def shown(name: object) -> str:
    """A name in one line of text: bytes that are no UTF-8 as `\\xff`, control characters as `\\n` or `\\x1b`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), printable(str(name)))
