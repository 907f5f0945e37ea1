"""The environment of a measurement: machine, system and versions."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from typing import TYPE_CHECKING

import importlib_metadata

from timmx.base import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterable


def environment(distributions: Iterable[str] = ()) -> dict[str, str]:
    """Machine, system and versions of this process.

    Args:
        distributions: further distributions to list, such as a backend's.
    """
    facts = {
        "processor": _processor(),
        "cores": str(usable_cores()),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    }
    for name in ("timmx-core", "timm", "torch", *distributions):
        try:
            facts[name] = importlib_metadata.version(name)
        except importlib_metadata.PackageNotFoundError:
            continue
    if threads := os.environ.get("OMP_NUM_THREADS"):
        facts["OMP_NUM_THREADS"] = threads
    return facts


def this_command() -> str:
    """The command line of this process, quoted for a shell."""
    return shlex.join(["timmx", *sys.argv[1:]])


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123 - no file of ours
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
