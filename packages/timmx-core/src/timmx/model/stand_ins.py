"""What pickles of trainers hold next to tensors and options, read without the code of their classes.

`torch.load` with `weights_only` calls only functions that it is given by name. These stand for a path, a date or a
number of NumPy, whose own functions take any bytes as an object in memory.
"""

from __future__ import annotations

import argparse
import struct
from typing import Any

_FORMATS = {
    "b1": "?",
    "i1": "b",
    "u1": "B",
    "i2": "h",
    "u2": "H",
    "i4": "i",
    "u4": "I",
    "i8": "q",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}


class Unread:
    """A value that is not read; an option that has it is refused if it matters."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        pass

    def __repr__(self) -> str:
        return "a value that is not read"


class _Array(Unread):
    """An array of NumPy, such as the state of a random generator."""


class _DataType(Unread):
    """A data type of NumPy; `arguments` begins with its code, such as `f8`."""

    big_endian = False

    def __setstate__(self, state: Any) -> None:
        self.big_endian = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"


def _number(kind: Any = None, content: Any = None) -> Any:
    """A number of NumPy as a number of Python."""
    code = kind.arguments[0] if isinstance(kind, _DataType) and kind.arguments else None
    format = _FORMATS.get(code) if isinstance(code, str) else None
    if format is None or not isinstance(content, bytes) or struct.calcsize(format) != len(content):
        return Unread()
    (number,) = struct.unpack((">" if kind.big_endian else "<") + format, content)
    return number


def _path(*parts: Any) -> Any:
    return "/".join(parts) if all(isinstance(part, str) for part in parts) else Unread()


def safe_globals() -> list[Any]:
    """For `torch.serialization.safe_globals`: functions with the names in a pickle for which they are called."""
    cores = ("numpy.core.multiarray", "numpy._core.multiarray")
    paths = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")
    return [
        argparse.Namespace,
        (_DataType, "numpy.dtype"),
        *((_number, f"{core}.scalar") for core in cores),
        *((_Array, f"{core}._reconstruct") for core in cores),
        (_Array, "numpy.ndarray"),
        *((_path, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in paths),
        *((Unread, f"datetime.{name}") for name in ("datetime", "date", "time", "timedelta", "timezone")),
    ]
