"""Formats results for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.base import format_table, size_text
from timmx.contract import LEAST_AGREEMENT

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.exporting import ExportResult
    from timmx.tools.verify import LocatedOperations
    from timmx.verification import VerificationReport


def summary(result: ExportResult) -> str:
    """The files of an export with size and precision, and its verification, in a few lines."""
    lines = [f"{result.path}  {size_text(result.size_bytes)}  {result.precision}"]
    lines += [f"  with {_short_path(result.path, path)}" for path in result.files[1:]]
    return "\n".join([*lines, *verdict(result.verification)])


def _short_path(artifact: Path, further: Path) -> str:
    return further.name if further.parent == artifact.parent else str(further)


def verdict(report: VerificationReport) -> list[str]:
    """The result of a verification, in one line or more."""
    status = f"{report.status}: {report.reason}" if report.reason else f"{report.status}"
    agreement = report.agreement
    if report.status == "verified" and agreement is not None and agreement < LEAST_AGREEMENT:
        kind = "a top-1 agreement" if report.label_agreement is None else "an agreement on labels"
        status += f", but with {kind} of only {100 * agreement:.1f} %"
    if report.snr_db is None:
        return [status]
    floor = f" (floor {report.floor_db:g} dB)" if report.floor_db is not None else ""
    sizes = ", ".join(map(str, report.batch_sizes))
    engine = f"; run by {report.engine}" if report.engine else ""
    lines = [
        f"{status}: {report.snr_db:.1f} dB{floor} on {report.inputs} inputs ({report.origin}), "
        f"batch size {sizes}{engine}"
    ]
    if report.resolvable_db is not None and report.exact_db is not None:
        lines.append(
            f"  against float64: {report.exact_db:.1f} dB; PyTorch in this precision: {report.resolvable_db:.1f} dB"
        )
    if report.operations and report.operation_db is not None:
        lines.append(
            f"  {report.operations} operations compared one by one: {report.operation_db:.1f} dB or more"
        )
    cosine = min(figures.cosine_min for figures in report.outputs)
    largest = max(figures.max_abs_diff for figures in report.outputs)
    worst = f"  minimum cosine {cosine:.6f}, maximum difference {largest:.2g}"
    if report.top1_agreement is not None:
        worst += f", top-1 agreement {100 * report.top1_agreement:.1f} %"
    if report.label_agreement is not None:
        worst += f", agreement on labels at 0.5 {100 * report.label_agreement:.1f} %"
    lines.append(worst)
    if report.accuracy is not None and report.model_accuracy is not None:
        lines.append(
            f"  accuracy {100 * report.accuracy:.1f} % (PyTorch model: {100 * report.model_accuracy:.1f} %)"
        )
    return lines


def located_table(located: LocatedOperations) -> list[str]:
    """Each operation of a file with its module in the model and its own error, and the first wrong one."""
    rows: list[tuple[str, ...]] = [("operation", "type", "in the model", "module", "own error", "")]
    for item in (*located.report.operations, *located.report.outputs):
        ratio = "-" if item.snr_db is None else f"{item.snr_db:.1f} dB"
        rows.append((item.name, item.kind, item.value, item.module, ratio, "exceeds rounding" * item.wrong))
    wrong, engine = located.report.wrong, f"; run by {located.engine}" if located.engine else ""
    result = "all operations are exact to rounding"
    if wrong is not None:
        result = f"the first one whose error exceeds rounding: {wrong.name}, {wrong.snr_db:.1f} dB"
    return [
        f"{located.path}  against {located.against}{engine}",
        *format_table(rows, left=(0, 1, 2, 3, 5)),
        f"{len(located.report.operations)} operations; {result}",
    ]
