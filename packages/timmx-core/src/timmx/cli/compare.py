"""`timmx compare DIR`: the artifacts of a folder side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import format_table, size_text
from timmx.cli.options import DebugOption, ReportOption, VerboseOption
from timmx.contract import JsonOption

if TYPE_CHECKING:
    from timmx.tools.compare import Row, SideBySide


def compare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with files that timmx wrote.")],
    model_options: dict[str, Any],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Measure accuracy on these images: a folder with one folder a class, or a CSV of path and label.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="Set the PyTorch model beside them: a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER.",
        ),
    ] = None,
    measure_latency: Annotated[
        bool, typer.Option("--bench/--no-bench", help="Measure latency, batch 1 where a file allows.")
    ] = True,
    seconds: Annotated[float, typer.Option("--seconds", help="How long each is timed, about.")] = 3.0,
    report: ReportOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Set the files of a folder side by side: size, precision, proof, accuracy and latency."""
    from timmx.cli.terminal import working
    from timmx.tools.compare import compare as run

    with working(verbose):
        if report is not None:
            from timmx.report import check_report_path

            check_report_path(report)
        found = run(
            folder,
            data=data,
            against=against,
            model_options=model_options,
            measure_latency=measure_latency,
            seconds=seconds,
        )
        if report is not None:
            _write(found, report)
    print(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(_lines(found, report)))
    for row in found.failed:
        for error in row.errors:
            print(f"error: {row.name}: {error}", file=sys.stderr)
    if found.failed:
        raise typer.Exit(2)


def _write(found: SideBySide, report: Path) -> None:
    from timmx.report import environment, this_command, write_report
    from timmx.tools.compare import compare_report

    facts = environment() if found.bench is None else found.bench.environment
    if found.data is not None:
        facts = {"data": str(found.data), **facts}
    write_report(compare_report(found, facts, [this_command()]), report)


def _lines(found: SideBySide, report: Path | None) -> list[str]:
    titles = ["file", "size", "precision", "verdict", "SNR", "top-1 agrees"]
    if found.evaluations:
        titles.append("accuracy")
    if found.bench is not None:
        titles += ["p50", "images/s"]
    lines = format_table([titles, *(_row(row, found) for row in found.rows)], (0, 2, 3))
    notes = [
        f"* run by {row.engine}, not by its own runtime: the latency says nothing about a device."
        for row in found.rows
        if row.engine and row.p50_ms is not None
    ]
    notes += [
        f"{row.name} is measured at its batch of {row.batch_size}; p50 is of one run."
        for row in found.rows
        if row.batch_size not in (None, 1)
    ]
    if not found.alike:
        notes.append("Runs differ in the size or the number of their images: their latencies are no ranking.")
    if found.mixed_inputs:
        notes.append(found.mixed_inputs)
    if found.unverified:
        names = ", ".join(row.name for row in found.unverified)
        notes.append(f"No verification is known of {names}: timmx verify measures it.")
    notes += [f"Left out: {name}: {reason}" for name, reason in found.left_out]
    if report is not None:
        notes.append(f"Report: {report}")
    return [*lines, *(["", *dict.fromkeys(notes)] if notes else [])]


def _row(row: Row, found: SideBySide) -> list[str]:
    cells = [
        row.name,
        "-" if row.size_bytes is None else size_text(row.size_bytes),
        row.precision,
        row.status or "-",
        "-" if row.snr_db is None else f"{row.snr_db:.1f} dB",
        "-" if row.agreement is None else f"{100 * row.agreement:.1f} %",
    ]
    if found.evaluations:
        cells.append("-" if row.top1 is None else f"{100 * row.top1:.1f} %")
    if found.bench is not None:
        cells.append("-" if row.p50_ms is None else f"{row.p50_ms:.3g} ms{'*' * bool(row.engine)}")
        cells.append("-" if row.images_per_s is None else f"{row.images_per_s:.0f}")
    return cells
