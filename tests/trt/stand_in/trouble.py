"""What a test wants to go wrong, and what a build was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Trouble:
    """Set a field, and the module behaves so from the next call on. A text is what the logger gets as an ERROR."""

    device: str = "Stand-in GPU, compute capability 8.6"
    """The GPU: plans and timing caches are bound to it."""
    no_device: str = ""
    """`Builder(...)` and `Runtime(...)` find no driver or GPU: TypeError, as pybind11 has it."""
    parse: str = ""
    """The parser refuses the first node."""
    profile: str = ""
    """`add_optimization_profile` returns -1."""
    build: str = ""
    """The build returns None."""
    workspace_needed: int = 0
    """Bytes: a build whose WORKSPACE limit is below finds no tactic and returns None."""
    deserialize: str = ""
    """`deserialize_cuda_engine` returns None."""
    context: str = ""
    """`create_execution_context` returns None, as where memory is short."""
    execute: str = ""
    """`execute_async_v3` returns False."""
    wrong_numbers: bool = False
    """Outputs have the wrong sign."""
    corrupt_rows: bool = False
    """Every second row of a batch is a little off, so equal rows differ (TensorRT's issue 4813)."""
    not_finite: bool = False
    """Outputs hold a NaN, as a graph in fp16 that overflows."""
    during_build: Callable[[], None] | None = None
    """Called before each step of a build, in the thread that reports the step: to send a signal, or to wait."""


@dataclass(frozen=True)
class Build:
    """What one call of `build_serialized_network` was asked for, whatever came of it; see `trt.builds`."""

    network_name: str
    strongly_typed: bool
    flags: frozenset[str]
    memory_pools: dict[str, int]
    """Limits that were set, in bytes; the others are left to TensorRT."""
    optimization_level: int
    hardware_compatibility: str
    profiling_verbosity: str
    profiles: tuple[dict[str, tuple[tuple[int, ...], ...]], ...]
    """For each profile the shapes of each input: min, opt, max."""
    timing_cache_entries: int | None
    """Entries of the cache at the start; None where no cache was set."""
    timing_cache_hits: int
