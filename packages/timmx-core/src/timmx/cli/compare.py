"""`timmx compare DIR`: a table of all artifacts in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timmx.base import format_table, size_text
from timmx.cli.options import DebugOption, ReportOption, TrustOption, VerboseOption
from timmx.cli.output import write, write_error, write_json
from timmx.contract import JsonOption

if TYPE_CHECKING:
    from timmx.tools.compare import FolderComparison, Row


def compare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder with files that timmx wrote.")],
    model_options: dict[str, Any],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Labeled images for accuracy: a folder with one subfolder per class, or a CSV with the columns path "
            "and label.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="MODEL",
            help="Add a row for this PyTorch model: a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER.",
        ),
    ] = None,
    measure_latency: Annotated[
        bool,
        typer.Option("--bench/--no-bench", help="Measure latency, at batch size 1 if the file supports it."),
    ] = True,
    seconds: Annotated[float, typer.Option("--seconds", help="Approximate time per file in seconds.")] = 3.0,
    report: ReportOption = None,
    trust: TrustOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Compare the files in a folder: size, precision, verification, accuracy and latency."""
    from timmx.cli.terminal import working
    from timmx.tools.compare import compare as run

    with working(verbose):
        if report is not None:
            from timmx.report import check_report_path

            check_report_path(report)
        comparison = run(
            folder,
            data=data,
            against=against,
            model_options=model_options,
            measure_latency=measure_latency,
            seconds=seconds,
            trust=trust,
        )
        if report is not None:
            _write(comparison, report)
    if as_json:
        write_json(comparison.to_dict())
    else:
        write("\n".join(_lines(comparison, report)))
    for row in comparison.failed:
        for error in row.errors:
            write_error(f"{row.name}: {error}")
    if comparison.failed:
        raise typer.Exit(2)


def _write(comparison: FolderComparison, report: Path) -> None:
    from timmx.report import environment, this_command, write_report
    from timmx.tools.compare import compare_report

    facts = environment() if comparison.bench is None else comparison.bench.environment
    if comparison.data is not None:
        facts = {"data": str(comparison.data), **facts}
    write_report(compare_report(comparison, facts, [this_command()]), report)


def _lines(comparison: FolderComparison, report: Path | None) -> list[str]:
    files = [row for row in comparison.rows if row.path is not None]
    titles = ["file", "size", "precision", "verdict", "SNR", _agreement_title(files)]
    if comparison.evaluations:
        titles.append(_accuracy_title(files))
    if comparison.bench is not None:
        titles += ["p50", "images/s"]
    lines = format_table([titles, *(_row(row, comparison) for row in comparison.rows)], (0, 2, 3))
    notes = [
        f"* run by {row.engine}, not by the format's own runtime: the latency says nothing about a device."
        for row in comparison.rows
        if row.engine and row.p50_ms is not None
    ]
    notes += [
        f"{row.name} is measured at its fixed batch size, {row.batch_size}; p50 is the latency of a whole batch."
        for row in comparison.rows
        if row.batch_size not in (None, 1)
    ]
    if not comparison.alike:
        notes.append("Input size or batch size differs between files: latencies are not comparable.")
    if comparison.mixed_inputs:
        notes.append(comparison.mixed_inputs)
    if comparison.unverified:
        names = ", ".join(row.name for row in comparison.unverified)
        notes.append(f"No verification is recorded for {names}: run timmx verify.")
    notes += [f"Left out: {name}: {reason}" for name, reason in comparison.left_out]
    if report is not None:
        notes.append(f"Report: {report}")
    return [*lines, *(["", *dict.fromkeys(notes)] if notes else [])]


def _agreement_title(files: list[Row]) -> str:
    """What the verifications agree on: the top-1 class, or whether each label applies."""
    kinds = {row.per_label for row in files}
    return "agrees" if len(kinds) > 1 else "labels agree" if kinds == {True} else "top-1 agrees"


def _accuracy_title(files: list[Row]) -> str:
    """The measure on labeled images."""
    kinds = {row.per_label for row in files}
    return "accuracy, mAP" if len(kinds) > 1 else "mAP" if kinds == {True} else "accuracy"


def _ratio(row: Row) -> str:
    """The ratio; if PyTorch itself does not reach the floor, the file's and PyTorch's against float64 too."""
    if row.snr_db is None:
        return "-"
    if row.resolvable_db is None or row.exact_db is None:
        return f"{row.snr_db:.1f} dB"
    return f"{row.snr_db:.1f} dB (float64: {row.exact_db:.1f}, PyTorch {row.resolvable_db:.1f})"


def _row(row: Row, comparison: FolderComparison) -> list[str]:
    cells = [
        row.name,
        "-" if row.size_bytes is None else size_text(row.size_bytes),
        row.precision,
        row.status or "-",
        _ratio(row),
        "-" if row.agreement is None else f"{100 * row.agreement:.1f} %",
    ]
    if comparison.evaluations:
        cells.append("-" if row.quality is None else f"{100 * row.quality:.1f} %")
    if comparison.bench is not None:
        cells.append("-" if row.p50_ms is None else f"{row.p50_ms:.3g} ms{'*' * bool(row.engine)}")
        cells.append("-" if row.images_per_s is None else f"{row.images_per_s:.0f}")
    return cells
