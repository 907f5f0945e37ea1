"""What a bench found: the figures of each case, and what to know about them."""

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
"""More than so many files are not named in a remark; `notes` in JSON has each case's own."""


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """One file, or the model, at one batch size and one number of threads.

    Attributes:
        name: as a person would name it: the file's name, or the model's.
        path: of the file; None for a model.
        batch_size: images a run.
        threads: that it might use.
        p50_ms: the median latency of a run, each round weighing the same (`timmx.tools.timing.pooled_quantiles`), as
            in all percentiles here; like all figures None where there is an `error`.
        p90_ms: nine of ten runs took no longer.
        p99_ms: 99 of 100 runs took no longer.
        throughput: images a second, one run after another: all images by the time of all runs.
        memory_bytes: the largest resident set of its process up to the end of the warm-up at this batch size, Python
            and the runtime included. Smaller sizes are warmed up before. None where the system does not tell.
        ratio: its p50_ms by that of the base at the same batch size and threads; None where the base has no
            such case.
        ratio_interval: (low, high) of 95 %; see `timmx.tools.timing.ratio_of_medians`.
        engine: what computed where it was not the format's own runtime: then the latency says nothing about a device.
        error: why there are no figures.
        refused: the error is that the file does not take this batch size.
        notes: what to know of these figures.
        latencies_ms: of all runs, round by round.
        round_runs: how many of them each round has.
        rounds_ms: the median latency of each round.
        spread: how far the rounds differ: the range of their middle half, as a share of their median.
        cores_used: processor time of the runs by their wall time.
        memory: bytes: `start` before the file was opened, `loaded` after, `end` after the last run, all largest
            resident sets of the process; `opening` and `running` are their growth.
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
        """Whether it should have had figures."""
        return bool(self.error) and not self.refused

    @property
    def stand_in(self) -> str:
        """What is to be said beside the figures where the format's own runtime did not run the file; else empty."""
        if not self.engine:
            return ""
        return (
            f"run by {self.engine} in place of the format's own runtime: it tells nothing of a device's speed"
        )

    def by_round(self) -> list[tuple[float, ...]]:
        """The latencies of each round, in ms."""
        ends = list(accumulate(self.round_runs, initial=0))
        return [self.latencies_ms[begin:end] for begin, end in pairwise(ends)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; of the latencies their number and their quantiles."""
        spots = [f"{100 * share:g}" for share in QUANTILES]
        found = pooled_quantiles(self.by_round()) if self.latencies_ms else ()
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
            "percentiles_ms": {spot: _rounded(value) for spot, value in zip(spots, found, strict=False)},
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
        base: the name of what the ratios are to; None where nothing was measured.
        rounds: how often each case had its turn.
        seconds: of timed runs a case, about.
        warnings: about the measurement as a whole.
        environment: where it was made.
    """

    cases: tuple[BenchCase, ...]
    base: str | None
    rounds: int
    seconds: float
    warnings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[BenchCase, ...]:
        """The cases that should have had figures and have none."""
        return tuple(case for case in self.cases if case.failed)

    def label(self, case: BenchCase) -> str:
        """A case's name beside the others: with the batch and the threads where they differ."""
        further = []
        if len({other.batch_size for other in self.cases}) > 1:
            further.append(f"batch {case.batch_size}")
        if len({other.threads for other in self.cases}) > 1:
            further.append(counted(case.threads, "thread"))
        return ", ".join([case.name, *further])

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know of the figures, each said once, with the files that it is about."""
        about: dict[str, list[BenchCase]] = {}
        for case in self.cases:
            said = [*case.notes, *([f"not measured: {case.error}"] if case.error else [])]
            for note in [*([case.stand_in] if case.stand_in else []), *said]:
                about.setdefault(note, []).append(case)
        return tuple(f"{self._named(cases)}: {text}" for text, cases in about.items())

    def _named(self, cases: Sequence[BenchCase]) -> str:
        """Which cases these are, by file, in few words."""
        if len(cases) == len(self.cases) > 1:
            return "every case"
        others = [case for case in self.cases if case not in cases]
        if 1 <= len(others) <= 2 and len(others) < len(cases):
            return f"all but {' and '.join(map(self.label, others))}"
        by_file: dict[str, list[BenchCase]] = {}
        for case in cases:
            by_file.setdefault(case.name, []).append(case)
        named = []
        for name, found in by_file.items():
            of_it = [case for case in self.cases if case.name == name]
            if len(found) == len(of_it):
                named.append(("* " if found[0].stand_in else "") + name)
            elif len(found) <= 2:
                named += map(self.label, found)
            else:
                named.append(f"{name} ({len(found)} of {len(of_it)} cases)")
        further = len(named) - _NAMED
        return "; ".join(named[:_NAMED] + ([f"and {further} more"] if further > 0 else []))

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


TIMED = "a run of the runtime, arrays in, arrays out; images are not read or resized in it"


def _rounded(value: float | None) -> float | None:
    """Six digits: more are not measured."""
    return None if value is None else float(f"{value:.6g}")
