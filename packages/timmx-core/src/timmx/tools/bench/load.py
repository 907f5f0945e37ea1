"""Checks that enough cores are free for a benchmark: threads that wait for a busy core distort the results."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.base import counted, usable_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

_SAMPLE_S = 0.3
_SLACK = 0.5
"""In cores: the background load of an idle system is lower."""


def load_warning(threads: Sequence[int], when: str) -> list[str]:
    """A warning if other programs leave too few cores for this many threads, else an empty list.

    Call it while the benchmark itself is idle.
    """
    cores, busy = usable_cores(), busy_cores()
    needed = max(min(count, cores) for count in threads)
    if busy is None or busy + needed <= cores + _SLACK:
        return []
    # On 2 busy cores PyTorch took 252 ms a run with 2 threads, and 1.6 ms with one.
    single = "" if needed == 1 else ", or use --threads 1, so that no thread waits for another"
    return [
        f"Other programs kept {busy:.1f} of {cores} cores busy {when}, but the benchmark uses "
        f"{counted(needed, 'thread')}: latencies may be too high, by up to 100 times if threads wait for each other. "
        f"Stop other processes{single}."
    ]


def busy_cores() -> float | None:
    """How many of the cores that this process may use are busy.

    Sampled for 0.3 s on Linux; elsewhere the load average of the last minute. None if neither is available.
    """
    before = _ticks()
    if before is not None:
        time.sleep(_SAMPLE_S)
        after = _ticks()
        if after is not None and after[1] > before[1]:
            return usable_cores() * (after[0] - before[0]) / (after[1] - before[1])
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _ticks() -> tuple[int, int] | None:
    """Busy ticks and all ticks of our cores since the system was started."""
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
    total = sum(map(sum, rows))
    return total - sum(row[3] + row[4] for row in rows), total  # idle and iowait
