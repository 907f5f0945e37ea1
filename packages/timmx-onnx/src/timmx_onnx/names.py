"""Finds names that no value of a graph has yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Names:
    """The names in use; `unused` returns a new one."""

    def __init__(self, used: Iterable[str | None]) -> None:
        self._used = set(used)

    def unused(self, name: str) -> str:
        """`name`, with a number appended if it is in use; the result counts as in use from then on."""
        unique, count = name, 0
        while unique in self._used:
            count += 1
            unique = f"{name}_{count}"
        self._used.add(unique)
        return unique
