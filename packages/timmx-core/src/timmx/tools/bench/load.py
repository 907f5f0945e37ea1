"""Whether the cores that a bench is to use are free: threads that wait for a busy core make figures of nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.base import usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOK_S = 0.3
_SLACK = 0.5
"""Cores: what a system does beside is less."""


def load_warning(threads: Sequence[int], when: str) -> list[str]:
    """One sentence where other programs leave too few cores to this many threads; else none.

    Call it while the bench itself rests.
    """
    cores, busy = usable_cores(), busy_cores()
    wanted = max(min(count, cores) for count in threads)
    if busy is None or busy + wanted <= cores + _SLACK:
        return []
    # On 2 busy cores PyTorch took 252 ms a run with 2 threads, and 1.6 ms with one.
    mend = "" if wanted == 1 else " --threads 1 lets none wait for another."
    return [
        f"Other programs kept {busy:.1f} of {cores} cores busy {when}, and {wanted} thread{'s' * (wanted != 1)} "
        f"{'are' if wanted != 1 else 'is'} measured: "
        f"the figures may be too high, a hundredfold where threads wait for each other. End what else runs.{mend}"
    ]


def busy_cores() -> float | None:
    """How many of the cores that this process may use are busy now.

    On Linux looked at for 0.3 s; elsewhere the system's load of the last minute. None where it tells neither.
    """
    before = _ticks()
    if before is not None:
        time.sleep(_LOOK_S)
        after = _ticks()
        if after is not None and after[1] > before[1]:
            return usable_cores() * (after[0] - before[0]) / (after[1] - before[1])
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _ticks() -> tuple[int, int] | None:
    """Busy and all ticks of our cores since the start of the system."""
    try:
        lines = Path("/proc/stat").read_text("utf-8").splitlines()
    except OSError:
        return None
    ours = (
        {f"cpu{number}" for number in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
    )
    rows = [[int(part) for part in line.split()[1:9]] for line in lines if line.partition(" ")[0] in ours]
    if not rows:
        return None
    everything = sum(map(sum, rows))
    return everything - sum(row[3] + row[4] for row in rows), everything  # idle, and waiting for a disk
