"""Wall time and peak memory of a process, shared by the benchmarks."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_CHILD_SUBREAPER = 36


class ProcessError(Exception):
    """A measured process ended with an error; holds what it printed."""

    @property
    def reason(self) -> str:
        """The last line that names an exception, or else the last line."""
        lines = [line.strip() for line in str(self).splitlines() if line.strip()]
        return next(
            (line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[-1]
        )


def adopt_orphans() -> None:
    """Count the processor time of processes whose parent ends first, such as forks of a server; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for_orphans() -> None:
    """Wait until all processes that were started have ended."""
    with suppress(ChildProcessError):
        while True:
            os.wait()


def fastest(commands: Sequence[list[str]], runs: int) -> list[float]:
    """The smallest wall time in seconds of each command, of runs in turns.

    Raises:
        ProcessError: one did not exit with 0.
    """
    times = [[measure(command)[0] for command in commands] for _ in range(runs)]
    return list(map(min, zip(*times, strict=True)))


def measure(command: list[str]) -> tuple[float, float]:
    """Wall time in seconds and peak resident memory in MB of a process.

    Raises:
        ProcessError: it did not exit with 0.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise ProcessError(f"{' '.join(command)} failed:\n{log.read().decode()}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024
