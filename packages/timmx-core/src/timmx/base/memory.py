"""Memory of this machine, to refuse before it is exhausted what cannot fit, and memory of processes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of versions 2 and 1: the file with the limit, that with the used memory, and the key of what can be freed."""


def memory_bytes() -> int | None:
    """The memory of this machine, or of the container; None if the system does not say."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    limits = [total]
    for path in (Path(limit) for limit, _, _ in _CGROUPS):
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limit for limit in limits if limit > 0)


def available_bytes() -> int | None:
    """Memory that new processes can use without swapping; None if the system does not say."""
    total = memory_bytes()
    try:
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    except OSError:
        return total // 2 if total else None
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for limit, usage, cache in _CGROUPS:
        folder = Path(limit).parent
        with suppress(OSError, ValueError, LookupError):  # no such group, or "max"
            pages = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / usage).read_text()) - int(pages[cache])
            free.append(int(Path(limit).read_text()) - used)
    return min(free, default=None)


def can_measure_processes() -> bool:
    """Whether `resident_bytes` works on this system."""
    return sys.platform in ("linux", "darwin")


def resident_bytes(pid: int) -> int | None:
    """The resident memory of a process and of those that it has started; None if it has ended.

    Pages that processes share count for each of them.

    Args:
        pid: on macOS, the leader of a process group, which is measured.
    """
    if sys.platform == "darwin":
        return _resident_of_group(pid)
    page = os.sysconf("SC_PAGE_SIZE")
    total, ahead = 0, [pid]
    while ahead:
        number = ahead.pop()
        with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
            total += page * pages
            for task in Path(f"/proc/{number}/task").iterdir():
                ahead += map(int, (task / "children").read_text().split())
    return total or None  # 0 of one that has ended, and is not reaped yet


def _resident_of_group(group: int) -> int | None:
    listing = subprocess.run(
        ["ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True, check=False
    ).stdout
    sizes = [line.split() for line in listing.splitlines()]
    own = [int(size) for number, size in sizes if number == str(group)]
    return 1024 * sum(own) if own else None


def peak_resident_bytes() -> int | None:
    """The peak resident set size of this process in bytes; None if it is not available."""
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return _peak_by_resource()
    # Not getrusage: on Linux its value survives exec, so it may be the parent's.
    return next(
        (1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), None
    )


def reset_peak() -> None:
    """Start a new peak, on systems that can do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_by_resource() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
