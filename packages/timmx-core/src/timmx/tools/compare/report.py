"""A comparison as a report: one table, accuracy or SNR over latency, latencies, and what the files confuse."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from timmx.report import Column, Distributions, Matrix, Point, Report, Scatter, Section, Table
from timmx.tools.bench import drawn_latencies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timmx.tools.compare.comparison import Row, SideBySide


def compare_report(found: SideBySide, environment: Mapping[str, str], commands: Sequence[str]) -> Report:
    """The report of one comparison.

    Args:
        environment: where it was made.
        commands: that made it.
    """
    sections: list[Section] = [_table(found)]
    for section in (_scatter(found), _latencies(found)):
        if section is not None:
            sections.append(section)
    sections += _matrices(found)
    if found.left_out:
        sections.append(_left_out(found))
    return Report(
        title=f"Artifacts in {found.folder.resolve().name}",
        summary=_summary(found),
        sections=sections,
        environment=environment,
        commands=commands,
    )


def _summary(found: SideBySide) -> str:
    files = [row for row in found.rows if row.path is not None]
    if len(files) == 1:
        said = f"One file: {files[0].name}."
    else:
        said = f"{len(files)} files side by side."
        smallest = min(files, key=lambda row: row.size_bytes or 0)
        said += f" {smallest.name} is the smallest."
    native = [row for row in files if row.p50_ms is not None and not row.engine]
    if native and found.bench is not None and found.bench.warnings:
        said += " Their latencies are in doubt: the note below says why, and none is called the fastest."
    elif native and found.alike:
        fastest = min(native, key=lambda row: row.p50_ms or 0.0)
        most = f"takes {fastest.p50_ms:.3g} ms a run here." if len(files) == 1 else ""
        said += f" {'It' if most else fastest.name} "
        said += most or f"is the fastest here, {fastest.p50_ms:.3g} ms a run."
    elif native:
        said += " Their runs differ in work, so none is called the fastest."
    judged = [row for row in files if row.top1 is not None]
    if judged:
        best = max(judged, key=lambda row: row.top1 or 0.0)
        worst = min(judged, key=lambda row: row.top1 or 0.0)
        right = f"{100 * (best.top1 or 0.0):.1f} %"
        if len(files) == 1:
            said += f" It reads {right} right."
        elif best.top1 == worst.top1:
            said += f" {'All read' if len(judged) == len(files) else 'All that could be judged read'} {right} right."
        else:
            least = f"{100 * (worst.top1 or 0.0):.1f} %"
            said += f" {best.name} reads most images right, {right}; {worst.name} fewest, {least}."
    return said


def _table(found: SideBySide) -> Table:
    columns = [
        Column("name", "file"),
        Column("precision", "precision"),
        Column("size", "size", "bytes"),
        Column("status", "verdict"),
        Column("snr", "SNR", "db"),
        Column("agreement", "agreement", "percent"),
    ]
    if found.evaluations:
        columns.append(Column("top1", "accuracy", "percent"))
    if found.bench is not None:
        columns.append(Column("p50", "latency", "ms"))
        if any(row.batch_size not in (None, 1) for row in found.rows):
            columns.append(Column("batch", "batch", "number"))
        columns.append(Column("speed", "images/s", "number"))
    if len({row.input_size for row in found.rows if row.input_size}) > 1:
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
            "p50": row.p50_ms,
            "batch": row.batch_size,
            "speed": row.images_per_s,
            "input": " x ".join(map(str, row.input_size)) or None,
        }
        for row in found.rows
    ]
    notes = []
    if any(row.status for row in found.rows):
        notes.append("SNR and top-1 agreement are what verification measured.")
    if found.mixed_inputs:
        notes.append(found.mixed_inputs)
    if found.evaluations:
        notes.append("The interval of the accuracy is of 95 %.")
    if found.bench is not None:
        notes += ["Latency is the median of a run.", *found.bench.warnings]
    if not found.alike:
        notes.append("Runs differ in the size or the number of their images: their latencies are no ranking.")
    if found.unverified:
        names = ", ".join(row.name for row in found.unverified)
        notes.append(f"Of {names} no verification is known; timmx verify measures it.")
    notes += [
        f"{row.name} is run by {row.engine} here: its latency says nothing about a device."
        for row in found.rows
        if row.engine and row.p50_ms is not None
    ]
    notes += [f"{row.name}: {error}." for row in found.rows for error in row.errors]
    return Table("Side by side", columns, rows, " ".join(notes))


def _scatter(found: SideBySide) -> Scatter | None:
    """Accuracy where there is data, else SNR, over latency; the area is the size."""
    timed = [row for row in found.rows if row.p50_ms is not None and not row.engine]
    by_accuracy = any(row.top1 is not None for row in timed)
    points = []
    no_place: dict[str, list[str]] = {}
    for row in found.rows:
        y = row.top1 if by_accuracy else row.snr_db
        if row.p50_ms is None:
            why = "no latency"
        elif row.engine:
            why = "no runtime of its own runs here"
        elif y is None:
            why = "no accuracy" if by_accuracy else "no SNR"
        elif abs(y) == float("inf"):
            why = "its numbers are the model's, an SNR without end" if y > 0 else "an SNR without end"
        else:
            interval = row.top1_interval if by_accuracy else None
            points.append(Point(name=row.name, x=row.p50_ms, y=y, size=row.size_bytes, interval=interval))
            continue
        if row.path is not None or row.p50_ms is not None:
            no_place.setdefault(why, []).append(row.name)
    if not points:
        return None
    left_out = "; ".join(f"{', '.join(names)} ({why})" for why, names in no_place.items())
    note = f"Not shown: {left_out}." if left_out else ""
    return Scatter(
        title="Accuracy over latency" if by_accuracy else "SNR over latency",
        x_title="median latency of a run",
        y_title="accuracy" if by_accuracy else "SNR",
        points=points,
        size_title="size",
        note=note,
        x_kind="ms",
        y_kind="percent" if by_accuracy else "db",
        size_kind="bytes",
    )


def _left_out(found: SideBySide) -> Table:
    """What looks like an artifact and could not be compared."""
    return Table(
        "Left out",
        [Column("name", "file"), Column("reason", "reason")],
        [{"name": name, "reason": reason} for name, reason in found.left_out],
    )


def _latencies(found: SideBySide) -> Distributions | None:
    if found.bench is None:
        return None
    kept = {(row.path, row.batch_size) for row in found.rows}
    values = {
        case.name: drawn_latencies(case)
        for case in found.bench.cases
        if case.latencies_ms and (case.path, case.batch_size) in kept
    }
    return (
        Distributions(title="Latencies", y_title="latency of a run", values=values, kind="ms")
        if values
        else None
    )


def _matrices(found: SideBySide) -> list[Matrix]:
    """What the best file confuses, and the worst where it is another."""
    from timmx.tools.eval import evaluation_report

    if not found.evaluations:
        return []
    ranked: list[Row] = sorted(
        (row for row in found.rows if row.name in found.evaluations), key=lambda row: row.top1 or 0.0
    )
    chosen = {"": ranked[-1]}
    if ranked[0].top1 != ranked[-1].top1:
        chosen = {", the most accurate,": ranked[-1], ", the least accurate,": ranked[0]}
    matrices = []
    for what, row in chosen.items():
        sections = evaluation_report(found.evaluations[row.name], {}, ()).sections
        matrices += [
            replace(section, title=f"What {row.name}{what} reads as what")
            for section in sections
            if isinstance(section, Matrix)
        ]
    return matrices
