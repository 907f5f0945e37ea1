"""The report of a comparison: one table, accuracy or SNR over latency, latencies, and confusion matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from timmx.report import Column, Distributions, Matrix, Point, Report, Scatter, Section, Table
from timmx.tools.bench import plotted_latencies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timmx.tools.compare.comparison import FolderComparison, Row


def compare_report(
    comparison: FolderComparison, environment: Mapping[str, str], commands: Sequence[str]
) -> Report:
    """The report of one comparison.

    Args:
        environment: machine and versions.
        commands: that reproduce it.
    """
    sections: list[Section] = [_table(comparison)]
    for section in (_scatter(comparison), _latencies(comparison)):
        if section is not None:
            sections.append(section)
    sections += _matrices(comparison)
    if comparison.left_out:
        sections.append(_left_out(comparison))
    return Report(
        title=f"Artifacts in {comparison.folder.resolve().name}",
        summary=_summary(comparison),
        sections=sections,
        environment=environment,
        commands=commands,
    )


def _summary(comparison: FolderComparison) -> str:
    files = [row for row in comparison.rows if row.path is not None]
    if len(files) == 1:
        text = f"One file: {files[0].name}."
    else:
        smallest = min(files, key=lambda row: row.size_bytes or 0)
        text = f"{len(files)} files. Smallest: {smallest.name}."
    native = [row for row in files if row.p50_ms is not None and not row.engine]
    if native and comparison.bench is not None and comparison.bench.warnings:
        text += " Latencies are unreliable: see the note below."
    elif native and comparison.alike:
        fastest = min(native, key=lambda row: row.p50_ms or 0.0)
        name = "Latency" if len(files) == 1 else f"Fastest: {fastest.name}"
        text += f" {name}, {fastest.p50_ms:.3g} ms per run."
    elif native:
        text += " Latencies are not comparable: input size or batch size differs."
    evaluated = [row for row in files if row.quality is not None]
    if evaluated and len({row.per_label for row in evaluated}) == 1:
        best = max(evaluated, key=lambda row: row.quality or 0.0)
        worst = min(evaluated, key=lambda row: row.quality or 0.0)
        highest, lowest = (f"{100 * (row.quality or 0.0):.1f} %" for row in (best, worst))
        measure = "Mean average precision" if best.per_label else "Accuracy"
        if best.quality != worst.quality:
            text += f" Most accurate: {best.name}, {highest}; least accurate: {worst.name}, {lowest}."
        elif len(files) == 1:
            text += f" {measure}: {highest}."
        else:
            text += (
                f" {measure} of all {'' if len(evaluated) == len(files) else 'evaluated '}files: {highest}."
            )
    return text


def _table(comparison: FolderComparison) -> Table:
    columns = [
        Column("name", "file"),
        Column("precision", "precision"),
        Column("size", "size", "bytes"),
        Column("status", "verdict"),
        Column("snr", "SNR", "db"),
        Column("agreement", "agreement", "percent"),
    ]
    if any(row.top1 is not None for row in comparison.rows):
        columns.append(Column("top1", "accuracy", "percent"))
    if any(row.mean_average_precision is not None for row in comparison.rows):
        columns.append(Column("map", "mean average precision", "percent"))
    if comparison.bench is not None:
        columns.append(Column("p50", "latency", "ms"))
        if any(row.batch_size not in (None, 1) for row in comparison.rows):
            columns.append(Column("batch", "batch", "number"))
        columns.append(Column("speed", "images/s", "number"))
    if len({row.input_size for row in comparison.rows if row.input_size}) > 1:
        columns.append(Column("input", "input"))
    rows = [
        {
            "name": row.name,
            "precision": row.precision,
            "size": row.size_bytes,
            "status": row.status or None,
            "snr": row.snr_db,
            "agreement": row.agreement,
            "top1": (row.top1, *row.top1_interval) if row.top1_interval else row.top1,
            "map": row.mean_average_precision,
            "p50": row.p50_ms,
            "batch": row.batch_size,
            "speed": row.images_per_s,
            "input": " x ".join(map(str, row.input_size)) or None,
        }
        for row in comparison.rows
    ]
    notes = []
    if any(row.status for row in comparison.rows):
        agreement = "agreement" if any(row.per_label for row in comparison.rows) else "top-1 agreement"
        notes.append(f"SNR and {agreement} are from verification.")
    if comparison.mixed_inputs:
        notes.append(comparison.mixed_inputs)
    if any(row.top1 is not None for row in comparison.rows):
        notes.append("Accuracy is shown with its 95 % interval.")
    if comparison.bench is not None:
        notes += ["Latency is the median of all runs.", *comparison.bench.warnings]
    if not comparison.alike:
        notes.append("Input size or batch size differs between files: latencies are not comparable.")
    if comparison.unverified:
        names = ", ".join(row.name for row in comparison.unverified)
        notes.append(f"No verification is recorded for {names}: run timmx verify.")
    notes += [
        f"{row.name} is run by {row.engine}, not by the format's own runtime: the latency says nothing about a device."
        for row in comparison.rows
        if row.engine and row.p50_ms is not None
    ]
    notes += [f"{row.name}: {error}." for row in comparison.rows for error in row.errors]
    return Table("Files", columns, rows, " ".join(notes))


def _scatter(comparison: FolderComparison) -> Scatter | None:
    """Accuracy if there is data, else SNR, over latency, with the file size as area."""
    timed = [row for row in comparison.rows if row.p50_ms is not None and not row.engine]
    by_accuracy = any(row.quality is not None for row in timed)
    measure = "mean average precision" if any(row.per_label for row in timed) else "accuracy"
    points = []
    left_out: dict[str, list[str]] = {}
    for row in comparison.rows:
        y = row.quality if by_accuracy else row.snr_db
        if row.p50_ms is None:
            why = "no latency"
        elif row.engine:
            why = "not run by its own runtime"
        elif y is None:
            why = f"no {measure}" if by_accuracy else "no SNR"
        elif abs(y) == float("inf"):
            why = "identical to the model, infinite SNR" if y > 0 else "infinite SNR"
        else:
            interval = row.top1_interval if by_accuracy else None
            points.append(Point(name=row.name, x=row.p50_ms, y=y, size=row.size_bytes, interval=interval))
            continue
        if row.path is not None or row.p50_ms is not None:
            left_out.setdefault(why, []).append(row.name)
    if not points:
        return None
    reasons = "; ".join(f"{', '.join(names)} ({why})" for why, names in left_out.items())
    note = f"Not shown: {reasons}." if reasons else ""
    return Scatter(
        title=f"{measure.capitalize()} over latency" if by_accuracy else "SNR over latency",
        x_title="median latency of a run",
        y_title=measure if by_accuracy else "SNR",
        points=points,
        size_title="size",
        note=note,
        x_kind="ms",
        y_kind="percent" if by_accuracy else "db",
        size_kind="bytes",
    )


def _left_out(comparison: FolderComparison) -> Table:
    """Files with an artifact's suffix that could not be compared."""
    return Table(
        "Left out",
        [Column("name", "file"), Column("reason", "reason")],
        [{"name": name, "reason": reason} for name, reason in comparison.left_out],
    )


def _latencies(comparison: FolderComparison) -> Distributions | None:
    if comparison.bench is None:
        return None
    shown = {(row.path, row.batch_size) for row in comparison.rows}
    values = {
        case.name: plotted_latencies(case)
        for case in comparison.bench.cases
        if case.latencies_ms and (case.path, case.batch_size) in shown
    }
    return (
        Distributions(title="Latencies", y_title="latency of a run", values=values, kind="ms")
        if values
        else None
    )


def _matrices(comparison: FolderComparison) -> list[Matrix]:
    """The confusion matrix of the most accurate file, and of the least accurate one if it differs."""
    from timmx.tools.eval import Evaluation, evaluation_report

    evaluations = {
        name: evaluation
        for name, evaluation in comparison.evaluations.items()
        if isinstance(evaluation, Evaluation)
    }
    if not evaluations:
        return []
    ranked: list[Row] = sorted(
        (row for row in comparison.rows if row.name in evaluations),
        key=lambda row: row.top1 or 0.0,
    )
    chosen = {"": ranked[-1]}
    if ranked[0].top1 != ranked[-1].top1:
        chosen = {" (most accurate)": ranked[-1], " (least accurate)": ranked[0]}
    matrices = []
    for what, row in chosen.items():
        sections = evaluation_report(evaluations[row.name], {}, ()).sections
        matrices += [
            replace(section, title=f"Confusion matrix of {row.name}{what}")
            for section in sections
            if isinstance(section, Matrix)
        ]
    return matrices
