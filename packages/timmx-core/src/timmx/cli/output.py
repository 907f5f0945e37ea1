"""Where text of commands goes out: on stdout or stderr, without raw control characters of files and plugins."""

from __future__ import annotations

import codecs
import json
import os
import sys
import traceback
from typing import Any

from timmx.base import shown


def write(text: object = "", *, error: bool = False) -> None:
    """Print text, in which newlines separate lines; other control characters are written as escapes.

    Args:
        text: the text.
        error: print it on stderr.
    """
    print("\n".join(map(shown, str(text).split("\n"))), file=sys.stderr if error else sys.stdout)


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a JSON value on stdout, in ASCII."""
    print(json.dumps(value, indent=indent).replace("\x7f", "\\u007f"))


def write_error(message: str, hint: str = "") -> None:
    """Print the line of an error, and that of its hint, on stderr."""
    write(f"error: {_one_line(message)}", error=True)
    if hint:
        write(f"hint: {_one_line(hint)}", error=True)


_LONGEST = 4000
"""Of a message; a file's name can have 4096 characters, and a message may have several."""


def _one_line(text: str) -> str:
    text = " ".join(text.splitlines())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def write_traceback(exc: BaseException) -> None:
    """Print the traceback of `--debug` on stderr."""
    write("".join(traceback.format_exception(exc)).rstrip("\n"), error=True)


class PlainRows:
    """A file object for `csv.writer` that prints on stdout; control characters are escapes if that is a terminal."""

    def write(self, row: str) -> None:
        if sys.stdout.isatty():
            row = "".join(shown(line) + "\n" for line in row.removesuffix("\n").split("\n"))
        sys.stdout.write(row)


def open_standard_streams() -> None:
    """Replace closed standard streams, so that no other file takes the place of one of them.

    A process started with `>&-` has no descriptor 1: the next file that it opens would get the output of libraries.

    Raises:
        OSError: the system has no null device.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            stream = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
            _closed.add(name)
    for name in ("stdout", "stderr"):
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:  # otherwise a test or an embedding program has replaced it
            reconfigure(errors="backslashreplace")


def stdout_is_utf8() -> bool:
    """Whether characters outside ASCII are written in UTF-8, as compilers and interpreters read code."""
    try:
        return codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    except LookupError:
        return False


_closed: set[str] = set()


def stdout_is_closed() -> bool:
    """Whether this process was started without stdout."""
    return "stdout" in _closed
