"""Rows of words as aligned columns, whole whatever the terminal's width; and names that leave a terminal whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.base.text import shown

if TYPE_CHECKING:
    from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset({0})) -> list[str]:
    """One line a row, in columns as wide as a terminal shows them.

    Args:
        rows: of equal length, the titles first; what a terminal cannot show is written out.
        left: numbers of the columns that begin alike; the others end alike, as numbers do.
    """
    from rich.cells import cell_len  # a Chinese or Japanese character is two cells wide

    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell + room if number in left else room + cell
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            for room in (" " * (width - cell_len(cell)),)
        ).rstrip()
        for row in cells
    ]
