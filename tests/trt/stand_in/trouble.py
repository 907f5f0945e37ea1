"""The failures that a test simulates, and the record of a build's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Trouble:
    """Fields take effect from the next call on. A string is the message that the logger gets as an ERROR."""

    device: str = "Stand-in GPU, compute capability 8.6"
    """The GPU: plans and timing caches are bound to it."""
    no_device: str = ""
    """`Builder(...)` and `Runtime(...)` find no driver or GPU: TypeError, as from pybind11."""
    parse: str = ""
    """The parser refuses the first node."""
    profile: str = ""
    """`add_optimization_profile` returns -1."""
    build: str = ""
    """The build returns None."""
    workspace_needed: int = 0
    """In bytes: a build with a lower WORKSPACE limit finds no tactic and returns None."""
    deserialize: str = ""
    """`deserialize_cuda_engine` returns None."""
    context: str = ""
    """`create_execution_context` returns None, as when memory is short."""
    execute: str = ""
    """`execute_async_v3` returns False."""
    wrong_numbers: bool = False
    """Outputs have the wrong sign."""
    corrupt_rows: bool = False
    """Every second row of a batch is slightly wrong, so equal rows differ (TensorRT's issue 4813)."""
    not_finite: bool = False
    """Outputs contain a NaN, as after an overflow in fp16."""
    during_build: Callable[[], None] | None = None
    """Called before each step of a build, in the thread that reports the step: to send a signal, or to wait."""


@dataclass(frozen=True)
class Build:
    """The settings of one call of `build_serialized_network`, also of a failed one; see `trt.builds`."""

    network_name: str
    strongly_typed: bool
    flags: frozenset[str]
    memory_pools: dict[str, int]
    """The limits that were set, in bytes."""
    optimization_level: int
    hardware_compatibility: str
    profiling_verbosity: str
    profiles: tuple[dict[str, tuple[tuple[int, ...], ...]], ...]
    """For each profile the shapes of each input: min, opt, max."""
    timing_cache_entries: int | None
    """Entries of the cache at the start; None if no cache was set."""
    timing_cache_hits: int
