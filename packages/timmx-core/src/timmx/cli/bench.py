"""`timmx bench FILE...`: the speed of exported files on this machine, compared with each other and with PyTorch."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import format_table
from timmx.cli.options import DebugOption, ReportOption, RuntimeDeviceOption, TrustOption, VerboseOption
from timmx.cli.output import write, write_error, write_json
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
            help="PyTorch model to compare with: a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER. Default: the "
            "first file.",
        ),
    ] = None,
    compile_model: Annotated[
        bool,
        typer.Option(
            "--compile", help="Also measure the PyTorch model with torch.compile; requires --against."
        ),
    ] = False,
    batch_sizes: Annotated[
        Ints | None,
        typer.Option(
            "--batch-sizes",
            parser=Ints.parse,
            metavar="N,M,...",
            help="Batch sizes, if the file has a dynamic one. Default: 1.",
        ),
    ] = None,
    threads: Annotated[
        Ints | None,
        typer.Option(
            "--threads",
            parser=Ints.parse,
            metavar="N,M,...",
            help="Numbers of threads for the runtimes. Default: all cores.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Approximate time per case in seconds, without warm-up.")
    ] = 3.0,
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="Number of rounds. Default: rounds of 0.1 s each, at least 10."),
    ] = None,
    report: ReportOption = None,
    runtime_device: RuntimeDeviceOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure the latency, throughput and memory of exported files."""
    from timmx.cli.terminal import working
    from timmx.tools.bench import bench as measure

    with working(verbose):
        if report is not None:
            from timmx.report import check_report_path

            check_report_path(report)
        result = measure(
            files,
            against=against,
            model_options=model_options,
            batch_sizes=batch_sizes or (1,),
            threads=threads or (None,),
            seconds=seconds,
            rounds=rounds,
            compile=compile_model,
            trust=trust,
            runtime_device=runtime_device,
        )
        if report is not None:
            from timmx.report import write_report
            from timmx.tools.bench import bench_report as report_of

            write_report(report_of(result), report)
    if as_json:
        write_json(result.to_dict())
    else:
        write(_text(result, report))
    if result.failed:  # the result is on stdout already
        names = ", ".join(dict.fromkeys(case.name for case in result.failed))
        write_error(f"{names} could not be measured: {result.failed[0].error}")
        raise typer.Exit(2)


_TITLES = ("file", "batch", "threads", "p50 ms", "p90 ms", "p99 ms", "images/s", "memory", "ratio", "95 %")


def _text(result: BenchResult, report: Path | None) -> str:
    rows = [_TITLES, *map(_row, result.cases)]
    lines = format_table(rows)
    lines.append("")
    for remark in result.remarks:
        lines += textwrap.wrap(
            remark, 110, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    lines.append(
        f"Measured in {result.rounds} rounds, each file in its own process, from input array to output array, without "
        "reading images. memory: peak of the process."
    )
    if result.base is not None:
        lines.append(
            f"ratio: p50 relative to {result.base}, with its 95 % interval. Each round has the same weight."
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
    """Three digits, never in scientific notation."""
    if value is None:
        return "-"
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"
