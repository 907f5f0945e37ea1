"""Names that no value of a graph has yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Names:
    """The names in use; `unused` gives another one."""

    def __init__(self, used: Iterable[str | None]) -> None:
        self._used = set(used)

    def unused(self, name: str) -> str:
        """The name itself, or with the first number that makes it new; in use from now on."""
        unique, count = name, 0
        while unique in self._used:
            count += 1
            unique = f"{name}_{count}"
        self._used.add(unique)
        return unique
