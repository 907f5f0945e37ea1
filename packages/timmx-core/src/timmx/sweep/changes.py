"""What has changed between two sweeps: cells that newly fail or pass, and decibels and seconds apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from timmx.base import counted

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.sweep.cell import Cell
    from timmx.sweep.summary import Summary


@dataclass(frozen=True)
class Change:
    """A cell that both sweeps have.

    Attributes:
        before: its result in the other sweep.
        now: its result.
    """

    before: Cell
    now: Cell

    @property
    def db(self) -> float | None:
        """By how much its signal-to-noise ratio has grown; None if one is missing or infinite."""
        before, now = self.before.snr_db, self.now.snr_db
        if before is None or now is None or not (math.isfinite(before) and math.isfinite(now)):
            return None
        return now - before

    @property
    def seconds(self) -> float:
        """By how much its wall time has grown."""
        return self.now.seconds - self.before.seconds

    @property
    def ratio(self) -> float | None:
        """Its wall time divided by the earlier one; None if that is 0."""
        return self.now.seconds / self.before.seconds if self.before.seconds else None


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The difference between two sweeps.

    Attributes:
        against: the folder of the other sweep.
        newly_failing: cells that passed there and fail here.
        newly_passing: cells that failed there and pass here.
        apart: cells that passed in both.
        only_here: number of cells that only this sweep has.
        only_there: number of cells that only the other one has.
    """

    against: Path
    newly_failing: tuple[Change, ...]
    newly_passing: tuple[Change, ...]
    apart: tuple[Change, ...]
    only_here: int
    only_there: int

    @property
    def text(self) -> str:
        """What has changed, in one or two sentences."""
        parts = [
            f"{len(self.newly_failing):,} newly failing",
            f"{len(self.newly_passing):,} newly passing",
            f"{counted(len(self.apart), 'cell')} passed in both",
        ]
        if self.only_here:
            parts.append(f"{self.only_here:,} only here")
        if self.only_there:
            parts.append(f"{self.only_there:,} only there")
        sentences = [f"Compared with {self.against}: {', '.join(parts)}."]
        ratios = [change.ratio for change in self.apart if change.ratio is not None]
        if ratios:
            sentences.append(f"Cells took {median(ratios):.2f} times as long (median).")
        return " ".join(sentences)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "against": str(self.against),
            "newly_failing": [_outcome(change) for change in self.newly_failing],
            "newly_passing": [_outcome(change) for change in self.newly_passing],
            "apart": [
                {**_place(change), "db": _rounded(change.db), "seconds": _rounded(change.seconds)}
                for change in self.apart
            ],
            "only_here": self.only_here,
            "only_there": self.only_there,
        }


def compare_sweeps(now: Summary, before: Summary, against: Path) -> Changes:
    """Compare the cells that two sweeps have in common: those of one model and target.

    Args:
        now: a sweep.
        before: the other one.
        against: its folder.
    """
    common = [Change(before.cells[place], cell) for place, cell in now.cells.items() if place in before.cells]
    return Changes(
        against=against,
        newly_failing=tuple(c for c in common if c.before.status.passed and not c.now.status.passed),
        newly_passing=tuple(c for c in common if c.now.status.passed and not c.before.status.passed),
        apart=tuple(c for c in common if c.now.status.passed and c.before.status.passed),
        only_here=len(now.cells) - len(common),
        only_there=len(before.cells) - len(common),
    )


def _place(change: Change) -> dict[str, Any]:
    return {"model": change.now.model, "target": change.now.target}


def _outcome(change: Change) -> dict[str, Any]:
    failing = change.now if not change.now.status.passed else change.before
    return {
        **_place(change),
        "before": change.before.status,
        "now": change.now.status,
        "message": failing.message,
        "command": failing.command,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
