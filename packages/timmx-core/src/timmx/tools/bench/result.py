"""The result of a benchmark: the measurements of each case, with notes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from timmx.base import counted
from timmx.tools.bench.timing import QUANTILES, pooled_quantiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NAMED = 4
"""Maximum number of files named in a remark; `notes` in JSON has all."""


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """One file, or the model, at one batch size and one number of threads.

    Attributes:
        name: of the file or the model, for display.
        path: of the file; None for a model.
        batch_size: images per run.
        threads: number of threads that it may use.
        p50_ms: the median latency of a run. In all percentiles each round has the same weight
            (`timmx.tools.bench.timing.pooled_quantiles`). Like all measurements, None if there is an `error`.
        p90_ms: the 90th percentile of the latency.
        p99_ms: the 99th percentile of the latency.
        throughput: images per second, one run after another: all images divided by the time of all runs.
        memory_bytes: the peak resident set size of its process up to the end of the warm-up at this batch size,
            including Python and the runtime. Smaller batch sizes are warmed up first. None if it is not available.
        ratio: p50_ms divided by that of the base at the same batch size and threads; None if the base has no such
            case.
        ratio_interval: (low, high), 95 %; see `timmx.tools.bench.timing.ratio_of_medians`.
        engine: what ran the file if it was not the format's own runtime: the latency then says nothing about a device.
        error: why nothing was measured; empty without an error.
        refused: the error is that the file does not take this batch size.
        notes: about these measurements.
        latencies_ms: of all runs, round by round.
        round_runs: the number of runs in each round.
        rounds_ms: the median latency of each round.
        spread: the interquartile range of the rounds, divided by their median.
        cores_used: processor time of the runs divided by their wall time.
        memory: in bytes: `start` before the file was opened, `loaded` after, `end` after the last run, each the peak
            resident set size of the process; `opening` and `running` are the differences.
        warm_up: `runs`, `first_run_s` (which may compile), the `seconds` after it, whether it `settled`, and the
            `variation` at its end.
    """

    name: str
    path: Path | None
    batch_size: int
    threads: int
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    throughput: float | None = None
    memory_bytes: int | None = None
    ratio: float | None = None
    ratio_interval: tuple[float, float] | None = None
    engine: str = ""
    error: str = ""
    refused: bool = False
    notes: tuple[str, ...] = ()
    latencies_ms: tuple[float, ...] = field(default=(), repr=False)
    round_runs: tuple[int, ...] = field(default=(), repr=False)
    rounds_ms: tuple[float, ...] = field(default=(), repr=False)
    spread: float | None = None
    cores_used: float | None = None
    memory: dict[str, int | None] = field(default_factory=dict)
    warm_up: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the measurement failed."""
        return bool(self.error) and not self.refused

    @property
    def stand_in(self) -> str:
        """A note that another engine than the format's own runtime ran the file; else empty."""
        if not self.engine:
            return ""
        return f"run by {self.engine} instead of the format's own runtime: this says nothing about a device's speed"

    def by_round(self) -> list[tuple[float, ...]]:
        """The latencies of each round, in ms."""
        ends = list(accumulate(self.round_runs, initial=0))
        return [self.latencies_ms[begin:end] for begin, end in pairwise(ends)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the number and the quantiles of the latencies."""
        spots = [f"{100 * share:g}" for share in QUANTILES]
        values = pooled_quantiles(self.by_round()) if self.latencies_ms else ()
        return {
            "name": self.name,
            "path": None if self.path is None else str(self.path),
            "batch_size": self.batch_size,
            "threads": self.threads,
            "p50_ms": _rounded(self.p50_ms),
            "p90_ms": _rounded(self.p90_ms),
            "p99_ms": _rounded(self.p99_ms),
            "throughput": _rounded(self.throughput),
            "runs": len(self.latencies_ms),
            "percentiles_ms": {spot: _rounded(value) for spot, value in zip(spots, values, strict=False)},
            "rounds_ms": [_rounded(value) for value in self.rounds_ms],
            "spread": _rounded(self.spread),
            "cores_used": _rounded(self.cores_used),
            "memory_bytes": self.memory_bytes,
            "memory": self.memory,
            "warm_up": self.warm_up,
            "ratio": _rounded(self.ratio),
            "ratio_interval": None if self.ratio_interval is None else [*map(_rounded, self.ratio_interval)],
            "engine": self.engine,
            "error": self.error,
            "refused": self.refused,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """All cases of one bench.

    Attributes:
        cases: by subject, then threads, then batch size.
        base: the name of the base of the ratios; None if nothing was measured.
        rounds: number of rounds.
        seconds: approximate time measured per case.
        warnings: about the benchmark as a whole.
        environment: machine and versions.
    """

    cases: tuple[BenchCase, ...]
    base: str | None
    rounds: int
    seconds: float
    warnings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[BenchCase, ...]:
        """The cases whose measurement failed."""
        return tuple(case for case in self.cases if case.failed)

    def label(self, case: BenchCase) -> str:
        """A case's name, with the batch size and the threads if these differ between cases."""
        further = []
        if len({other.batch_size for other in self.cases}) > 1:
            further.append(f"batch {case.batch_size}")
        if len({other.threads for other in self.cases}) > 1:
            further.append(counted(case.threads, "thread"))
        return ", ".join([case.name, *further])

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes of all cases, each once, with the files that it applies to."""
        about: dict[str, list[BenchCase]] = {}
        for case in self.cases:
            failure = [f"not measured: {case.error}"] if case.error else []
            for note in [*([case.stand_in] if case.stand_in else []), *case.notes, *failure]:
                about.setdefault(note, []).append(case)
        return tuple(f"{self._named(cases)}: {text}" for text, cases in about.items())

    def _named(self, cases: Sequence[BenchCase]) -> str:
        """A short text that names these cases, by file."""
        if len(cases) == len(self.cases) > 1:
            return "every case"
        others = [case for case in self.cases if case not in cases]
        if 1 <= len(others) <= 2 and len(others) < len(cases):
            return f"all but {' and '.join(map(self.label, others))}"
        by_file: dict[str, list[BenchCase]] = {}
        for case in cases:
            by_file.setdefault(case.name, []).append(case)
        names = []
        for name, some in by_file.items():
            every = [case for case in self.cases if case.name == name]
            if len(some) == len(every):
                names.append(("* " if some[0].stand_in else "") + name)
            elif len(some) <= 2:
                names += map(self.label, some)
            else:
                names.append(f"{name} ({len(some)} of {len(every)} cases)")
        further = len(names) - _NAMED
        return "; ".join(names[:_NAMED] + ([f"and {further} more"] if further > 0 else []))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "base": self.base,
            "timed": TIMED,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "cases": [case.to_dict() for case in self.cases],
            "warnings": list(self.warnings),
            "environment": self.environment,
        }


TIMED = "one run of the runtime, from input arrays to output arrays, without reading or resizing images"


def _rounded(value: float | None) -> float | None:
    """Round to six significant digits."""
    return None if value is None else float(f"{value:.6g}")
