"""Text of messages: counts, and names that are not valid UTF-8 or hold control characters."""

from __future__ import annotations

import os
import re
import sys

_SURROGATE = re.compile(r"[\ud800-\udfff]")
"""Surrogates. Python decodes a byte of a file name that is not UTF-8 as one of DC80 to DCFF (PEP 383)."""


def printable(text: str, backslash: str = "\\") -> str:
    """The text with surrogates escaped: a byte of a file name that is not UTF-8 becomes `\\xff`."""
    return _SURROGATE.sub(lambda match: backslash + _digits(ord(match[0])), text)


def _digits(code: int) -> str:
    return f"x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"u{code:04x}"


def is_utf8(text: str) -> bool:
    """Whether a file name can be passed to a runtime; on POSIX a name can be any bytes."""
    return _SURROGATE.search(text) is None


def looks_like_utf16(data: bytes) -> bool:
    """Whether the beginning of a file is text in UTF-16 or UTF-32, with a byte order mark or with many zero bytes."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    zeros = data.count(0)
    return len(data) <= 4 * zeros < 4 * len(data) and re.search(rb"[\x01-\x08\x0e-\x1f\x7f]", data) is None


def locale_problem(path: object) -> str:
    """Why a path that is not `is_utf8` is one outside of this process; empty if it is not UTF-8 on disk either."""
    try:
        os.fsencode(str(path)).decode("utf-8")
    except UnicodeError:
        return ""
    return f"the locale of this process is not UTF-8 (it is {sys.getfilesystemencoding()}), and this path is"


def path_problem(path: object) -> str:
    """Why no file system can have a path; empty if one can."""
    text = str(path)
    if "\0" in text:
        return "it contains a NUL character"
    try:
        sizes = [len(os.fsencode(part)) for part in text.split("/")]
    except UnicodeEncodeError:
        return "it contains half of a surrogate pair"
    if max(sizes) > _LONGEST_NAME or sum(sizes) + len(sizes) > _LONGEST_PATH:
        return f"a name has at most {_LONGEST_NAME} bytes, and a path {_LONGEST_PATH}"
    return ""


_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""Of Linux and macOS file systems."""


def counted(count: int, one: str, many: str = "") -> str:
    """A number with its noun, such as `1 image` or `1,200 images`; `many` is the plural if it is not `one` plus s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def size_text(size_bytes: float) -> str:
    """A size with its unit, such as `1.23 MB`."""
    for unit in ("B", "kB", "MB"):
        if abs(size_bytes) < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB" if abs(size_bytes) < 999.5 else f"{size_bytes:,.0f} GB"


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that end a line, move the cursor, change colors or reverse the direction of text."""


def shown(name: object) -> str:
    """A name as one line of text: bytes that are not UTF-8 as `\\xff`, control characters as `\\n` or `\\x1b`."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), printable(str(name)))
