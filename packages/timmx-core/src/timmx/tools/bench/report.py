"""A bench as a report: its table, how the latencies are distributed, and what they cost in memory or give in images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.report import Column, Distributions, Point, Report, Scatter, Section, Table, this_command
from timmx.tools.bench.result import TIMED
from timmx.tools.bench.timing import pooled_quantiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.tools.bench.result import BenchCase, BenchResult

_DRAWN = 200
"""As many quantiles of a case's latencies go into the plot: its boxes and whiskers are those of all runs."""

_ROOM = 34
"""Letters of a name in a plot."""

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


def bench_report(result: BenchResult) -> Report:
    """What `timmx bench --report` writes."""
    measured = [case for case in result.cases if case.p50_ms is not None]
    several = len({case.threads for case in result.cases}) > 1
    columns = [column for column in _COLUMNS if several or column.key != "threads"]
    sections: list[Section] = [
        Table("Latency, throughput and memory", columns, _rows(result.cases), _note(result))
    ]
    if measured:
        sections += [_distributions(result, measured), *_scatters(result, measured)]
    return Report(
        title="Benchmark",
        summary=_summary(result),
        sections=sections,
        environment=result.environment,
        commands=[this_command()],
    )


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
        f"drawn anew each round.{base} The interval of 95 % is bootstrapped over the rounds. In "
        "percentiles each round weighs the same. Memory is the peak of the whole process, Python and runtime included. "
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


def drawn_latencies(case: BenchCase) -> list[float]:
    """As many quantiles of a case's runs as are drawn in a box, in ms, each round weighing the same."""
    shares = [index / (_DRAWN - 1) for index in range(_DRAWN)]
    return [float(f"{value:.4g}") for value in pooled_quantiles(case.by_round(), shares)]


def _distributions(result: BenchResult, measured: Sequence[BenchCase]) -> Distributions:
    names = _short_names(result, measured)
    values = {names[result.label(case)]: drawn_latencies(case) for case in measured}
    return Distributions(
        title="Latencies",
        y_title="ms a run",
        values=values,
        note=f"{_DRAWN} quantiles of the runs of each case, each round weighing the same.",
    )


def _scatters(result: BenchResult, measured: Sequence[BenchCase]) -> list[Section]:
    found: list[Section] = []
    names = _short_names(result, measured)
    with_memory = [case for case in measured if case.memory_bytes is not None]
    if with_memory:
        points = [
            Point(name=names[result.label(case)], x=case.p50_ms or 0.0, y=(case.memory_bytes or 0) / 1e6)
            for case in with_memory
        ]
        found.append(
            Scatter(title="Memory over latency", x_title="p50, ms", y_title="peak memory, MB", points=points)
        )
    if len({case.batch_size for case in measured}) > 1:
        points = [
            Point(name=names[result.label(case)], x=case.batch_size, y=case.throughput or 0.0)
            for case in measured
        ]
        found.append(
            Scatter(
                title="Throughput over batch size", x_title="images a run", y_title="images/s", points=points
            )
        )
    return found


def _short_names(result: BenchResult, cases: Sequence[BenchCase]) -> dict[str, str]:
    """Names that a plot has room for, by label: where one is long, what all files' names begin with is left out.

    A plot cuts the middle of a longer one, where batch and threads may be.
    """
    labels = {result.label(case): case.name for case in cases}
    if max(map(len, labels)) <= _ROOM:
        return {label: label for label in labels}
    files = [case.name for case in result.cases if case.path is not None]
    begun = _common(files)
    short = {}
    for label, name in labels.items():
        own = name.removeprefix(begun) if name in files else name
        further = label[len(name) :].replace(" threads", " thr.").replace(" thread", " thr.")
        room = max(_ROOM - len(further), 12)
        if len(own) > room:
            end = (room - 1) // 2
            own = f"{own[: room - 1 - end]}…{own[-end:]}"
        short[label] = own + further
    return short if len(set(short.values())) == len(short) else {label: label for label in labels}


def _common(names: Sequence[str]) -> str:
    """The words that all names begin with; empty where there is one name."""
    count = 0
    if len(set(names)) > 1:
        alike = (len(set(letters)) == 1 for letters in zip(*names, strict=False))
        for position, same in enumerate(alike):
            if not same:
                break
            if names[0][position] in "-_./ ":
                count = position + 1
    return names[0][:count] if names else ""
