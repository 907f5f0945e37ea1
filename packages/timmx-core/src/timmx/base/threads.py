"""CPU cores, and how threads wait for each other."""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"
"""OpenMP's environment variable, read when torch is imported."""


def wait_without_spinning() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user has set how they wait.

    By default they spin, and on a machine where other programs run, they spin for threads that have no core: loading
    and preparing resnet18 then takes 3.5 s of processor time instead of 1.3, and 18 s instead of 9 on two cores
    (torch 2.14). With all cores free, sleeping takes up to half as long again per layer, which is little in an export.
    """
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
