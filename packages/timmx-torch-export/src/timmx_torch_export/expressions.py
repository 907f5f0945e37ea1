"""The expressions of sizes in a `.pt2` file: a small grammar, because torch evaluates their text as Python code.

    expression = NAME | INTEGER | FUNCTION "(" [expression {"," expression}] ")" | symbol | number
    symbol     = "Symbol" "(" "'" NAME "'" {"," assumption "=" ("True" | "False")} ")"
    number     = "Integer" "(" INTEGER ")" | "Rational" "(" INTEGER "," INTEGER ")"

torch writes sizes in this form (`sympy.srepr`), such as `Mul(Integer(2), Symbol('s0', integer=True))`. NAME is the name
of a size in torch, such as `s0`.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z]\w*)|(?P<integer>-?\d+)|(?P<text>'\w*')|(?P<mark>[(),=]))")
_SYMBOL = re.compile(r"(?:s|u|z|zf|zuf)\d{1,6}")

_FUNCTIONS = {
    "Add": (1, 64),
    "Mul": (1, 64),
    "Max": (1, 64),
    "Min": (1, 64),
    "Mod": (2, 2),
    "PythonMod": (2, 2),
    "FloorDiv": (2, 2),
    "CeilDiv": (2, 2),
    "CleanDiv": (2, 2),
    "IntTrueDiv": (2, 2),
    "FloatTrueDiv": (2, 2),
    "ModularIndexing": (3, 3),
    "FloorToInt": (1, 1),
    "CeilToInt": (1, 1),
    "TruncToInt": (1, 1),
    "RoundToInt": (1, 1),
    "ToFloat": (1, 1),
    "Identity": (1, 1),
    "Equality": (2, 2),
    "Unequality": (2, 2),
    "GreaterThan": (2, 2),
    "StrictGreaterThan": (2, 2),
    "LessThan": (2, 2),
    "StrictLessThan": (2, 2),
    "And": (1, 64),
    "Or": (1, 64),
    "Not": (1, 1),
    "Pow": (2, 2),
}
"""Functions of sympy and torch, with the least and the greatest number of arguments."""

_ASSUMPTIONS = (
    "integer",
    "positive",
    "nonnegative",
    "negative",
    "nonzero",
    "real",
    "finite",
    "extended_real",
)
_LARGEST = 2**63 - 1
_LARGEST_POWER = 4
_LONGEST = 4096
_DEEPEST = 32


class InvalidExpression(Exception):  # noqa: N818 - becomes an ArtifactError
    """The text is not an expression of this grammar."""


def is_symbol(name: str) -> bool:
    """Whether this is the name of a size in torch, such as `s0`."""
    return _SYMBOL.fullmatch(name) is not None


def clean_expression(text: str) -> str:
    """The same expression, written from its parts.

    Raises:
        InvalidExpression: the text does not follow the grammar, or is too long or too deep.
    """
    if len(text) > _LONGEST:
        raise InvalidExpression
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise InvalidExpression
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()
        self._tokens.append(("end", ""))
        self._at = 0

    def whole(self) -> str:
        expression = self._expression(0, within_power=False)
        self._take("end")
        return expression

    def _expression(self, depth: int, within_power: bool) -> str:
        if depth > _DEEPEST:
            raise InvalidExpression
        kind, value = self._next()
        if kind == "integer":
            return f"Integer({_integer(value)})"
        if kind != "name":
            raise InvalidExpression
        if is_symbol(value):
            return value
        if value in ("true", "false"):
            return value
        self._take("mark", "(")
        if value == "Symbol":
            return self._symbol()
        if value in ("Integer", "Rational"):
            return self._number(value)
        if value not in _FUNCTIONS or (within_power and value == "Pow"):  # towers of powers exhaust memory
            raise InvalidExpression
        arguments = [self._expression(depth + 1, within_power or value == "Pow")]
        while self._next_mark(",", ")") == ",":
            arguments.append(self._expression(depth + 1, within_power or value == "Pow"))
        least, most = _FUNCTIONS[value]
        if not least <= len(arguments) <= most:
            raise InvalidExpression
        if value == "Pow" and arguments[1] not in {
            f"Integer({power})" for power in range(-_LARGEST_POWER, _LARGEST_POWER + 1)
        }:
            raise InvalidExpression
        return f"{value}({', '.join(arguments)})"

    def _symbol(self) -> str:
        name = self._take("text")[1:-1]
        if not is_symbol(name):
            raise InvalidExpression
        assumptions = []
        while self._next_mark(",", ")") == ",":
            assumption = self._take("name")
            self._take("mark", "=")
            truth = self._take("name")
            if assumption not in _ASSUMPTIONS or truth not in ("True", "False"):
                raise InvalidExpression
            assumptions.append(f", {assumption}={truth}")
        if len(set(assumptions)) != len(assumptions):
            raise InvalidExpression
        return f"Symbol('{name}'{''.join(assumptions)})"

    def _number(self, function: str) -> str:
        numbers = [_integer(self._take("integer"))]
        if function == "Rational":
            self._take("mark", ",")
            numbers.append(_integer(self._take("integer")))
            if numbers[1] < 1:
                raise InvalidExpression
        self._take("mark", ")")
        return f"{function}({', '.join(map(str, numbers))})"

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _take(self, kind: str, value: str | None = None) -> str:
        token_kind, token = self._next()
        if token_kind != kind or value not in (None, token):
            raise InvalidExpression
        return token

    def _next_mark(self, *marks: str) -> str:
        mark = self._take("mark")
        if mark not in marks:
            raise InvalidExpression
        return mark


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(value := int(digits)) > _LARGEST:
        raise InvalidExpression
    return value
