"""`timmx bench FILE...`: how fast exported files are here, beside each other and beside PyTorch."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import format_table
from timmx.cli.options import DebugOption, ReportOption, VerboseOption
from timmx.contract import Ints, JsonOption

if TYPE_CHECKING:
    from timmx.tools.bench import BenchCase, BenchResult


def bench(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files that timmx wrote, of any format.")
    ],
    model_options: dict[str, Any],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="The PyTorch model that ratios are to: a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER. By default "
            "they are to the first file.",
        ),
    ] = None,
    compile_model: Annotated[
        bool, typer.Option("--compile", help="Measure the model under torch.compile too; needs --against.")
    ] = False,
    batch_sizes: Annotated[
        Ints | None,
        typer.Option(
            "--batch-sizes",
            parser=Ints.parse,
            metavar="N,M,...",
            help="Images a run, where the file takes any number; 1 by default.",
        ),
    ] = None,
    threads: Annotated[
        Ints | None,
        typer.Option(
            "--threads",
            parser=Ints.parse,
            metavar="N,M,...",
            help="Threads that the runtimes may use; by default all cores.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long each case is timed, about, warm-up aside.")
    ] = 3.0,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="Turns of each case; by default turns of 0.1 s, at least 10."),
    ] = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure the latency, throughput and memory of exported files, in turns."""
    from timmx.cli.terminal import working
    from timmx.tools.bench import bench as measure

    with working(verbose):
        if report is not None:
            from timmx.report import check_report_path

            check_report_path(report)
        found = measure(
            files,
            against=against,
            model_options=model_options,
            batch_sizes=batch_sizes or (1,),
            threads=threads or (None,),
            seconds=seconds,
            rounds=rounds,
            compile=compile_model,
        )
        if report is not None:
            from timmx.report import write_report
            from timmx.tools.bench import bench_report as report_of

            write_report(report_of(found), report)
    print(json.dumps(found.to_dict(), indent=2) if as_json else _text(found, report))
    if found.failed:  # the result stands on stdout already
        named = ", ".join(dict.fromkeys(case.name for case in found.failed))
        print(f"error: {named} could not be measured: {found.failed[0].error}", file=sys.stderr)
        raise typer.Exit(2)


_TITLES = ("file", "batch", "threads", "p50 ms", "p90 ms", "p99 ms", "images/s", "memory", "by base", "95 %")


def _text(found: BenchResult, report: Path | None) -> str:
    rows = [_TITLES, *map(_row, found.cases)]
    lines = format_table(rows)
    lines.append("")
    for remark in found.remarks:
        lines += textwrap.wrap(
            remark, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    lines.append(
        f"Timed: {found.rounds} rounds in turns, each file in its own process; from array to array, without "
        "reading images. memory: the process's peak."
    )
    if found.base is not None:
        lines.append(
            f"by base: p50 by that of {found.base}, with its interval of 95 %. In percentiles rounds weigh alike."
        )
    if report is not None:
        lines.append(f"Report: {report}")
    return "\n".join(lines)


def _row(case: BenchCase) -> tuple[str, ...]:
    low, high = case.ratio_interval or (None, None)
    interval = "-" if low is None or high is None or low == high else f"{_number(low)} to {_number(high)}"
    return (
        f"{case.name} *" if case.engine else case.name,
        str(case.batch_size),
        str(case.threads),
        *(f"{_number(value)}{'*' * bool(case.engine)}" for value in (case.p50_ms, case.p90_ms, case.p99_ms)),
        _number(case.throughput),
        "-" if case.memory_bytes is None else f"{case.memory_bytes / 1e6:.0f} MB",
        _number(case.ratio),
        interval,
    )


def _number(value: float | None) -> str:
    """Three digits, never as a power of ten."""
    if value is None:
        return "-"
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"
