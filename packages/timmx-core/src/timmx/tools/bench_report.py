"""A bench as a report: its table, how the latencies are distributed, and what they cost in memory or give in images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.report.content import Column, Distributions, Point, Report, Scatter, Section, Table
from timmx.report.environment import this_command
from timmx.tools.bench_result import TIMED
from timmx.tools.timing import quantiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.tools.bench_result import BenchCase, BenchResult

_DRAWN = 200
"""As many quantiles of a case's latencies go into the plot: its boxes and whiskers are those of all runs."""

_COLUMNS = (
    Column("name", "File"),
    Column("batch_size", "Batch", "number"),
    Column("threads", "Threads", "number"),
    Column("p50_ms", "p50", "ms"),
    Column("p90_ms", "p90", "ms"),
    Column("p99_ms", "p99", "ms"),
    Column("throughput", "Images/s", "number"),
    Column("memory_bytes", "Memory", "bytes"),
    Column("ratio", "By base", "number"),
    Column("interval", "95 %"),
)


def report(result: BenchResult) -> Report:
    """What `timmx bench --report` writes."""
    measured = [case for case in result.cases if case.p50_ms is not None]
    several = len({case.threads for case in result.cases}) > 1
    columns = [column for column in _COLUMNS if several or column.key != "threads"]
    sections: list[Section] = [
        Table("Latency, throughput and memory", columns, _rows(result.cases), _note(result))
    ]
    if measured:
        sections += [_distributions(result, measured), *_scatters(result, measured)]
    return Report("Benchmark", _summary(result), sections, result.environment, [this_command()])


def _rows(cases: Sequence[BenchCase]) -> list[dict[str, object]]:
    keys = [column.key for column in _COLUMNS]
    rows = []
    for case in cases:
        row: dict[str, object] = {key: getattr(case, key, None) for key in keys}
        if case.engine:
            row["name"] = f"{case.name} *"
        if case.ratio_interval and case.ratio_interval[0] < case.ratio_interval[1]:
            row["interval"] = " to ".join(f"{value:.3g}" for value in case.ratio_interval)
        rows.append(row)
    return rows


def _note(result: BenchResult) -> str:
    base = f" By base is the time by that of {result.base}." if result.base else ""
    threads = sorted({case.threads for case in result.cases})
    if len(threads) == 1:
        base = f" Each might use {threads[0]} thread{'s' * (threads[0] != 1)}.{base}"
    return (
        f"Timed is {TIMED}. Each file has a process of its own; they took turns in {result.rounds} rounds, in an order "
        f"drawn anew each round.{base} The interval of 95 % is bootstrapped over the rounds. Memory is the peak of "
        "the whole process, Python and runtime included. "
    ) + " ".join(f"{remark}." for remark in result.remarks)


def _summary(result: BenchResult) -> str:
    measured = [case for case in result.cases if case.p50_ms is not None and not case.engine]
    said = [f"{len(result.cases) - len(result.failed)} of {len(result.cases)} cases were measured."]
    if measured:
        best = min(measured, key=lambda case: case.p50_ms or 0.0)
        said = [f"Shortest latency: {result.label(best)}, {best.p50_ms:.3g} ms in the median."]
        most = max(measured, key=lambda case: case.throughput or 0.0)
        said.append(f"Most images a second: {result.label(most)}, {most.throughput:,.0f}.")
    said += [f"{result.label(case)} failed." for case in result.failed]
    return " ".join([*said, *result.warnings])


def _distributions(result: BenchResult, measured: Sequence[BenchCase]) -> Distributions:
    shares = [index / (_DRAWN - 1) for index in range(_DRAWN)]
    values = {
        result.label(case): [float(f"{value:.4g}") for value in quantiles(case.latencies_ms, shares)]
        for case in measured
    }
    return Distributions("Latencies", "ms a run", values, f"{_DRAWN} quantiles of all runs of each case.")


def _scatters(result: BenchResult, measured: Sequence[BenchCase]) -> list[Section]:
    found: list[Section] = []
    with_memory = [case for case in measured if case.memory_bytes is not None]
    if with_memory:
        points = [
            Point(result.label(case), case.p50_ms or 0.0, (case.memory_bytes or 0) / 1e6)
            for case in with_memory
        ]
        found.append(Scatter("Memory over latency", "p50, ms", "peak memory, MB", points))
    if len({case.batch_size for case in measured}) > 1:
        points = [Point(result.label(case), case.batch_size, case.throughput or 0.0) for case in measured]
        found.append(Scatter("Throughput over batch size", "images a run", "images/s", points))
    return found
