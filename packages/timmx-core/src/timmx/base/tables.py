"""Text tables with aligned columns, independent of the terminal's width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.base.text import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_WIDTH = 1_000_000
"""Cells are never truncated or wrapped, so that names can be copied from the output."""


def format_table(rows: Sequence[Sequence[object]], left: Collection[int] = (0,)) -> list[str]:
    """Lines of a table, one per row, aligned by terminal width.

    Args:
        rows: of equal length, the header first; control characters are written as escapes.
        left: indices of the left-aligned columns; the others are right-aligned.
    """
    from rich.console import Console  # counts a Chinese or Japanese character as two cells
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
