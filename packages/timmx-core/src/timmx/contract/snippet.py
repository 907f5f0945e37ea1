"""Code that loads and runs a file in one language, and string literals of these languages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """Code that loads and runs a file in one language; `timmx inspect --snippet` adds the preprocessing.

    Text from the file, such as a tensor's name, goes through `quote_string`, in a comment through `shown`.

    Attributes:
        requires: packages to install, by the names used in that language.
        imports: lines for the top.
        load: lines that open the file.
        run: lines that run it, from the preprocessed image `x` to the first output `output`. In Python both are numpy
            arrays with a batch dimension; in the other languages both are flat and hold one image.
        labels: an expression that reads the class names from the opened file; empty if there is none.
        takes_image: `x` is the image itself, resized and cropped, in the language's type for images.
        least_batch: the smallest batch size that the file accepts, if its batch size is dynamic.
    """

    requires: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    labels: str = ""
    takes_image: bool = False
    least_batch: int = 1


def quote_string(text: str, language: str) -> str:
    """A string literal that a program reads as exactly this text, and that is safe to paste.

    Printable characters stay as they are. Control characters, line separators, marks that reverse the direction of
    text, and everything else that is not visible is escaped.

    Args:
        text: any text; it may come from an untrusted file.
        language: `python`, `swift`, `kotlin`, `js` or `cpp`. A string of Swift or C++ cannot hold a lone surrogate, so
            there U+FFFD takes its place.
    """
    escape, special = _LANGUAGES[language]
    escapes = _ESCAPES | special
    return f'"{"".join(escapes.get(char) or (char if char.isprintable() else escape(ord(char))) for char in text)}"'


def in_ascii(code: str, language: str) -> str:
    """Code in ASCII: other characters, which are in literals of `quote_string` and in comments, are escaped.

    Compilers read code as UTF-8. Written in another encoding it has other characters, or is a syntax error.

    Args:
        code: a program.
        language: see `quote_string`.
    """
    escape, _ = _LANGUAGES[language]
    return "".join(char if char.isascii() else escape(ord(char)) for char in code)


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
"""Escapes that all languages have."""


def _python_escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _swift_escape(code: int) -> str:
    return f"\\u{{{0xFFFD if 0xD800 <= code < 0xE000 else code:x}}}"


def _cpp_escape(code: int) -> str:
    if 0xD800 <= code < 0xE000:
        code = 0xFFFD
    return "".join(f"\\{byte:03o}" for byte in chr(code).encode())


def _utf16_escape(code: int) -> str:
    units = chr(code).encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


_LANGUAGES: dict[str, tuple[Callable[[int], str], dict[str, str]]] = {
    "python": (_python_escape, {}),
    "swift": (_swift_escape, {"*": "\\u{2a}"}),  # tree-sitter-swift 0.7, for editors, sees a comment in "/*"
    "kotlin": (_utf16_escape, {"$": "\\$"}),  # "$name" is replaced by a value
    "cpp": (_cpp_escape, {"?": "\\?"}),  # "??/" is another character in C++ before C++17
    "js": (_utf16_escape, {"<": "\\u003c"}),  # "</script>" would end a script within HTML
}
"""The escape of one character, and the characters that only this language escapes."""
