"""What a running sweep reports to the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.sweep.cell import Cell


@dataclass(frozen=True, kw_only=True)
class Running:
    """A model that is being exported.

    Attributes:
        model: its label.
        target: the running cell's target; empty while the model is loaded.
        step: what it is doing.
        seconds: how long the running cell, or loading, has taken.
        memory_bytes: largest memory since then; None if it is not measured.
    """

    model: str
    target: str = ""
    step: str = ""
    seconds: float = 0.0
    memory_bytes: int | None = None


class Watcher:
    """Is called while a sweep runs; the command line shows it."""

    def started(self, total: int, kept: int) -> None:
        """The sweep starts.

        Args:
            total: number of cells.
            kept: how many of them are in the journal already.
        """

    def running(self, models: Sequence[Running]) -> None:
        """What is running now; called several times a second."""

    def ended(self, cell: Cell) -> None:
        """A cell has ended and is in the journal."""
