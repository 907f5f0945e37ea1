"""The grid of a sweep's report: families and formats, each cell with its outcome, its color and its reasons."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from timmx.base import counted
from timmx.report import Grid, Outcome
from timmx.sweep.cell import CellStatus
from timmx.sweep.summary import UNKNOWN_FAMILY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.report import Tone
    from timmx.sweep.cell import Cell
    from timmx.sweep.summary import Summary

_MOST_REASONS = 4
"""Reasons in the details of one cell of the grid."""

_LONGEST_REASON = 220

_TONES: dict[CellStatus, Tone] = {
    CellStatus.VERIFIED: "good",
    CellStatus.UNPROVEN: "pale",
    CellStatus.SKIPPED: "pale",
    CellStatus.FAILED: "warn",
    CellStatus.REFUSED: "warn",
    CellStatus.ERROR: "bad",
    CellStatus.CRASHED: "bad",
    CellStatus.TIMEOUT: "limit",
    CellStatus.MEMORY: "limit",
}

_LEGEND: dict[Tone, str] = {
    "good": "all verified",
    "pale": "all exported, some unproven or not verified",
    "partly": "some failed",
    "warn": "refused, or below the floor",
    "bad": "internal error or crash",
    "limit": "over a limit of time or memory",
}


def outcome_grid(summary: Summary) -> Grid:
    """The outcome of each family in each format: of several models their number, of a single one its ratio."""
    places: dict[tuple[str, str], list[Cell]] = {}
    for cell in summary.cells.values():
        places.setdefault((cell.family or UNKNOWN_FAMILY, cell.target), []).append(cell)
    families = sorted({family for family, _ in places})
    rows = {
        family: [
            _outcome(family, target, places[family, target]) if (family, target) in places else None
            for target in summary.targets
        ]
        for family in families
    }
    tones = {cell.tone for row in rows.values() for cell in row if cell is not None}
    return Grid(
        title="Families and formats",
        corner="Family",
        columns=summary.targets,
        rows=rows,
        legend={tone: text for tone, text in _LEGEND.items() if tone in tones},
        note="Each cell shows how many models of the family were exported, or the signal-to-noise ratio of a single "
        "one. Hover over a cell, tap it or move to it with the arrow keys to see the reasons.",
    )


def _outcome(family: str, target: str, cells: Sequence[Cell]) -> Outcome:
    passed = [cell for cell in cells if cell.status.passed]
    failed = [cell for cell in cells if not cell.status.passed]
    lines = [f"{family}, {target}: {len(passed)} of {counted(len(cells), 'model')} exported"]
    ratios = [(cell.snr_db, cell.model) for cell in passed if cell.snr_db is not None]
    if ratios:
        lowest, model = min(ratios)
        lines.append(f"lowest ratio: {lowest:.1f} dB ({model})")
    reasons: dict[tuple[str, str], list[Cell]] = {}
    for cell in failed:
        reasons.setdefault((cell.status.words, one_line(cell.message)), []).append(cell)
    for (words, message), group in list(reasons.items())[:_MOST_REASONS]:
        who = group[0].model if len(group) == 1 else counted(len(group), "model")
        lines.append(f"{words}, {who}: {shortened(message)}")
    if len(reasons) > _MOST_REASONS:
        lines.append(f"and {counted(len(reasons) - _MOST_REASONS, 'more reason')}")
    return Outcome(
        text=_text(cells),
        tone=_tone(passed, failed),
        detail="\n".join(lines),
        order=len(passed) / len(cells),
    )


def _text(cells: Sequence[Cell]) -> str:
    if len(cells) > 1:
        return f"{sum(cell.status.passed for cell in cells)}/{len(cells)}"
    (cell,) = cells
    if not cell.status.passed:
        return cell.status.words
    if cell.snr_db is None:
        return cell.status.words
    return f"{cell.snr_db:.0f} dB" if math.isfinite(cell.snr_db) else "∞ dB"


def _tone(passed: Sequence[Cell], failed: Sequence[Cell]) -> Tone:
    if passed and failed:
        return "partly"
    tones = {_TONES[cell.status] for cell in (*passed, *failed)}
    return next(tone for tone in ("bad", "limit", "warn", "pale", "good") if tone in tones)


def shortened(text: str, most: int = _LONGEST_REASON) -> str:
    """At most the first `most` characters of a text."""
    return text if len(text) <= most else f"{text[:most]}…"


def one_line(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())
