"""How messages count."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """A number and what it counts, such as `1 image` and `1,200 images`; `many` where the plural is no `s`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
