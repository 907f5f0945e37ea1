"""`timmx sweep report`: the results of a sweep as text, Markdown, HTML, and files for analysis."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timmx.cli.options import DebugOption, VerboseOption
from timmx.cli.output import PlainRows, write, write_json
from timmx.sweep import ReportFormat

if TYPE_CHECKING:
    from timmx.sweep import Changes, Summary


def sweep_report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a sweep.")],
    report_format: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format",
            help="text: counts and failures; csv, jsonl: all cells; markdown: one row per model. Default: text.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="DIR", help="Also show what has changed since another sweep, in its folder."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write an HTML report: outcomes by family and format, and all cells.",
        ),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(
            "--parquet",
            metavar="FILE",
            help="Write all cells as a Parquet file; requires timmx-core\\[parquet].",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the results of a sweep, or write them to files."""
    from timmx.errors import ConfigurationError
    from timmx.report import check_report_path
    from timmx.sweep import check_parquet_path, compare_sweeps, journal_of, summarize

    if as_json and report_format is not None:
        raise ConfigurationError(
            "--json and --format both choose what is printed", hint="leave one of them out"
        )
    if report_format is None and not (as_json or html or parquet):
        report_format = ReportFormat.TEXT
    if against is not None and not (as_json or html or report_format is ReportFormat.TEXT):
        raise ConfigurationError(
            "--against shows changes as text, HTML and JSON only",
            hint="add --html FILE, or use --format text or --json",
        )
    if html is not None:
        check_report_path(html, "--html")
    if parquet is not None:
        check_parquet_path(parquet)
    summary = summarize(journal_of(folder.expanduser()))
    changes = None
    if against is not None:
        changes = compare_sweeps(summary, summarize(journal_of(against.expanduser())), against)
    if html is not None or parquet is not None:
        _write_files(summary, changes, html, parquet)
    if as_json:
        write_json(summary.to_dict() | ({"changes": changes.to_dict()} if changes else {}))
    elif report_format is not None:
        _print(summary, changes, report_format)


def _write_files(summary: Summary, changes: Changes | None, html: Path | None, parquet: Path | None) -> None:
    if html is not None:
        from timmx.report import write_report
        from timmx.sweep import sweep_page

        write_report(sweep_page(summary, changes), html, "--html")
    if parquet is not None:
        from timmx.sweep import write_parquet

        write_parquet(summary, parquet)


def _print(summary: Summary, changes: Changes | None, report_format: ReportFormat) -> None:
    from timmx.sweep import changes_text, csv_rows, markdown_report, text_report

    match report_format:
        case ReportFormat.CSV:
            csv.writer(PlainRows(), lineterminator="\n").writerows(csv_rows(summary))
        case ReportFormat.JSONL:
            for cell in summary.cells.values():
                write_json(cell.to_json(), indent=None)
        case ReportFormat.MARKDOWN:
            write("\n".join(markdown_report(summary)))
        case ReportFormat.TEXT:
            write("\n".join(text_report(summary)))
    if changes is not None and report_format is ReportFormat.TEXT:
        write("\n".join(["", *changes_text(changes)]))
