"""What a child of a sweep is asked for, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from timmx.sweep.choices import Keep

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.sweep.models import SweepModel


class Event(StrEnum):
    """What a child reports.

    LOADED: the model is loaded: `family`, `parameters`, `weights`, `shared_cpu_seconds`.
    BROKEN: the model cannot be loaded or prepared; the values of a failed cell, for all its cells.
    STARTED: a cell has started: `cell`, its number.
    STEP: `text`.
    ENDED: a cell has ended: `cell`, and values of `Cell`.
    """

    LOADED = "loaded"
    BROKEN = "broken"
    STARTED = "started"
    STEP = "step"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a child does.

    Attributes:
        model: the model.
        options: the shared options of its cells.
        targets: all targets of the sweep: file names depend on all of them.
        todo: numbers of the targets to export.
        name: the model's folder, relative to that of the sweep.
        folder: where the model's files go; None for a temporary folder of the child.
        storage: the URL below which they are stored then; empty to store none.
        keep: which files are kept.
        data: labeled images; None to measure no accuracy.
        threads: number of threads of PyTorch; 0 for its default.
    """

    model: SweepModel
    options: Mapping[str, Any]
    targets: tuple[str | Mapping[str, Any], ...]
    todo: tuple[int, ...]
    name: str
    folder: Path | None = None
    storage: str = ""
    keep: Keep = Keep.PASSED
    data: Path | None = None
    threads: int = 0
