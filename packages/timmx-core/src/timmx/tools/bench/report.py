"""The report of a benchmark: table, distribution of latencies, memory over latency, throughput over batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.base import counted
from timmx.report import Column, Distributions, Point, Report, Scatter, Section, Table, this_command
from timmx.tools.bench.result import TIMED
from timmx.tools.bench.timing import pooled_quantiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.tools.bench.result import BenchCase, BenchResult

_DRAWN = 200
"""Number of quantiles of a case's latencies in the plot; its boxes and whiskers are those of all runs."""

_ROOM = 34
"""Maximum length of a name in a plot."""

_COLUMNS = (
    Column("name", "File"),
    Column("batch_size", "Batch", "number"),
    Column("threads", "Threads", "number"),
    Column("p50_ms", "p50", "ms"),
    Column("p90_ms", "p90", "ms"),
    Column("p99_ms", "p99", "ms"),
    Column("throughput", "Images/s", "number"),
    Column("memory_bytes", "Memory", "bytes"),
    Column("ratio", "Ratio", "number"),
    Column("interval", "95 %"),
)


def bench_report(result: BenchResult) -> Report:
    """The report that `timmx bench --report` writes."""
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
    base = f" Ratio: p50 relative to {result.base}." if result.base else ""
    threads = sorted({case.threads for case in result.cases})
    if len(threads) == 1:
        base = f" Each process may use {counted(threads[0], 'thread')}.{base}"
    return (
        f"Measured: {TIMED}. Each file has its own process; they took turns in {result.rounds} rounds, in random "
        f"order.{base} The 95 % interval is bootstrapped over the rounds. In percentiles, each round has the same "
        "weight. Memory is the peak of the whole process, including Python and the runtime. "
    ) + " ".join(f"{remark}." for remark in result.remarks)


def _summary(result: BenchResult) -> str:
    measured = [case for case in result.cases if case.p50_ms is not None and not case.engine]
    sentences = [f"{len(result.cases) - len(result.failed)} of {len(result.cases)} cases were measured."]
    if measured:
        best = min(measured, key=lambda case: case.p50_ms or 0.0)
        sentences = [f"Lowest median latency: {result.label(best)}, {best.p50_ms:.3g} ms."]
        most = max(measured, key=lambda case: case.throughput or 0.0)
        sentences.append(f"Highest throughput: {result.label(most)}, {most.throughput:,.0f} images/s.")
    sentences += [f"{result.label(case)} failed." for case in result.failed]
    return " ".join([*sentences, *result.warnings])


def plotted_latencies(case: BenchCase) -> list[float]:
    """The quantiles of a case's runs that a plot shows, in ms, with the same weight for each round."""
    shares = [index / (_DRAWN - 1) for index in range(_DRAWN)]
    return [float(f"{value:.4g}") for value in pooled_quantiles(case.by_round(), shares)]


def _distributions(result: BenchResult, measured: Sequence[BenchCase]) -> Distributions:
    names = _short_names(result, measured)
    values = {names[result.label(case)]: plotted_latencies(case) for case in measured}
    return Distributions(
        title="Latencies",
        y_title="ms per run",
        values=values,
        note=f"{_DRAWN} quantiles of the runs of each case, with the same weight for each round.",
    )


def _scatters(result: BenchResult, measured: Sequence[BenchCase]) -> list[Section]:
    scatters: list[Section] = []
    names = _short_names(result, measured)
    with_memory = [case for case in measured if case.memory_bytes is not None]
    if with_memory:
        points = [
            Point(name=names[result.label(case)], x=case.p50_ms or 0.0, y=(case.memory_bytes or 0) / 1e6)
            for case in with_memory
        ]
        scatters.append(
            Scatter(title="Memory over latency", x_title="p50, ms", y_title="peak memory, MB", points=points)
        )
    if len({case.batch_size for case in measured}) > 1:
        points = [
            Point(name=names[result.label(case)], x=case.batch_size, y=case.throughput or 0.0)
            for case in measured
        ]
        scatters.append(
            Scatter(
                title="Throughput over batch size",
                x_title="images per run",
                y_title="images/s",
                points=points,
            )
        )
    return scatters


def _short_names(result: BenchResult, cases: Sequence[BenchCase]) -> dict[str, str]:
    """Names short enough for a plot, by label; if one is too long, the common prefix of all file names is removed.

    A plot shortens longer names in the middle, where batch size and threads may be.
    """
    labels = {result.label(case): case.name for case in cases}
    if max(map(len, labels)) <= _ROOM:
        return {label: label for label in labels}
    files = [case.name for case in result.cases if case.path is not None]
    prefix = _common(files)
    short = {}
    for label, name in labels.items():
        own = name.removeprefix(prefix) if name in files else name
        further = label[len(name) :].replace(" threads", " thr.").replace(" thread", " thr.")
        room = max(_ROOM - len(further), 12)
        if len(own) > room:
            end = (room - 1) // 2
            own = f"{own[: room - 1 - end]}…{own[-end:]}"
        short[label] = own + further
    return short if len(set(short.values())) == len(short) else {label: label for label in labels}


def _common(names: Sequence[str]) -> str:
    """The words that all names begin with; empty for a single name."""
    count = 0
    if len(set(names)) > 1:
        alike = (len(set(letters)) == 1 for letters in zip(*names, strict=False))
        for position, same in enumerate(alike):
            if not same:
                break
            if names[0][position] in "-_./ ":
                count = position + 1
    return names[0][:count] if names else ""
