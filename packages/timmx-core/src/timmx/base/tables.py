"""Rows of text as aligned columns, the same for a terminal of any width and for a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.base.text import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_WIDTH = 1_000_000
"""Cells are never cut or wrapped: names are copied from the output."""


def format_table(rows: Sequence[Sequence[object]], left: Collection[int] = (0,)) -> list[str]:
    """One line per row, in columns as wide as a terminal shows them.

    Args:
        rows: of equal length, the titles first; control characters are written as escapes.
        left: numbers of the left-aligned columns; the others are right-aligned, as numbers are.
    """
    from rich.console import Console  # knows that a Chinese or Japanese character is two cells wide
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for number in range(len(rows[0])):
        table.add_column(justify="left" if number in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    console = Console(width=_WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().split("\n")[:-1]]
