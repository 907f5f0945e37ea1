"""Formats results for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.base import size_text
from timmx.contract import LEAST_AGREEMENT

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.exporting import ExportResult
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
    agreement = report.top1_agreement
    if report.status == "verified" and agreement is not None and agreement < LEAST_AGREEMENT:
        status += f", but with a top-1 agreement of only {100 * agreement:.1f} %"
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
        lines.append(f"  {report.operations} operations compared one by one, at least {report.operation_db:.1f} dB each")
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
