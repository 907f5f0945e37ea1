"""Compares the artifacts in a folder: size, precision, verification, accuracy and latency."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from timmx.artifact import MANIFEST_NAME, backend_for, recall
from timmx.base import artifact_size, require_artifact
from timmx.contract import ExportRequest, Metadata
from timmx.errors import ArtifactError, BackendError, ConfigurationError, TimmxError
from timmx.exporting import default_name
from timmx.registry import known_backends
from timmx.tools.subject import refuse_model_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from timmx.tools.bench import BenchResult
    from timmx.tools.eval import Comparison, Evaluation, LabelComparison, MultiLabelEvaluation


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artifact, or the PyTorch model.

    Attributes:
        path: None for the model.
        input_size: channels, height and width of the input; empty for the model, which has that of the first file.
        snr_db: of its recorded verification; None if there is none.
        resolvable_db: what the arithmetic can resolve, if that was measured; see `VerificationReport`.
        exact_db: the artifact against float64, if that was measured.
        agreement: agreement with the model, 0 to 1, of the recorded verification: on the top-1 class, or `per_label`
            on whether each class applies.
        per_label: classes do not exclude each other.
        inputs: the inputs of the verification, such as `500 images of samples`; empty if unknown.
        status: of its verification; empty if unknown.
        top1: accuracy on the data, 0 to 1, with a 95 % `top1_interval`; None without data or `per_label`.
        mean_average_precision: on the data, 0 to 1, if `per_label`; otherwise None.
        batch_size: at which the latency was measured.
        p50_ms: median latency of a run; None if it was not measured.
        engine: what ran the file if it was not the format's own runtime: the latency then says nothing about a device.
        errors: what could not be measured, and why.
    """

    name: str
    path: Path | None = None
    backend: str = ""
    input_size: tuple[int, ...] = ()
    size_bytes: int | None = None
    precision: str = ""
    status: str = ""
    snr_db: float | None = None
    resolvable_db: float | None = None
    exact_db: float | None = None
    agreement: float | None = None
    per_label: bool = False
    inputs: str = ""
    top1: float | None = None
    top1_interval: tuple[float, float] | None = None
    mean_average_precision: float | None = None
    batch_size: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    images_per_s: float | None = None
    engine: str = ""
    errors: tuple[str, ...] = ()

    @property
    def quality(self) -> float | None:
        """The accuracy, or the mean average precision `per_label`."""
        return self.mean_average_precision if self.per_label else self.top1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        values = asdict(self) | {"path": None if self.path is None else str(self.path)}
        for name in ("snr_db", "resolvable_db", "exact_db"):
            if values[name] is not None and abs(values[name]) == float("inf"):
                values[name] = str(values[name])
        return values


@dataclass(frozen=True, kw_only=True)
class FolderComparison:
    """The artifacts of a folder with their measurements.

    Attributes:
        rows: the model first, if there is one, then files by name.
        left_out: names of files with an artifact's suffix that were left out, each with the reason.
        evaluations: by name of the row; empty without data.
        bench: None if latency was not measured.
    """

    folder: Path
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    data: Path | None = None
    evaluations: Mapping[str, Evaluation | MultiLabelEvaluation] = field(default_factory=dict)
    bench: BenchResult | None = None

    @property
    def unverified(self) -> tuple[Row, ...]:
        """Files without a recorded verification."""
        return tuple(row for row in self.rows if row.path is not None and row.snr_db is None)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Files with a failed measurement."""
        return tuple(row for row in self.rows if row.errors)

    @property
    def mixed_inputs(self) -> str:
        """A note that the verifications used different inputs; empty if they used the same."""
        names: dict[str, list[str]] = {}
        for row in self.rows:
            if row.snr_db is not None:
                names.setdefault(row.inputs, []).append(row.name)
        if len(names) < 2:
            return ""
        groups = "; ".join(f"{', '.join(files)} on {inputs or 'others'}" for inputs, files in names.items())
        return f"Verifications used different inputs, so SNR and agreement are not comparable: {groups}."

    @property
    def alike(self) -> bool:
        """Whether all latencies are comparable: same input size and batch size."""
        timed = [row for row in self.rows if row.p50_ms is not None]
        sizes = {row.input_size for row in timed if row.input_size}
        return len(sizes) <= 1 and len({row.batch_size for row in timed}) <= 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "folder": str(self.folder),
            "data": None if self.data is None else str(self.data),
            "rows": [row.to_dict() for row in self.rows],
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
            "warnings": [] if self.bench is None else list(self.bench.warnings),
            "environment": {} if self.bench is None else self.bench.environment,
        }


def compare(
    folder: Path,
    *,
    data: Path | None = None,
    against: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    measure_latency: bool = True,
    seconds: float = 3.0,
    trust: bool = False,
) -> FolderComparison:
    """Compare all artifacts in a folder.

    Args:
        folder: with files that timmx wrote, of any installed backend.
            data: labeled images, as for `timmx.tools.eval.evaluate`.
        against: the PyTorch model, which gets its own row.
        model_options: which weights and shape it has; see `timmx.contract.MODEL_OPTIONS`.
        measure_latency: run `timmx.tools.bench` on the files.
        seconds: approximate time to measure each file.
        trust: the files may run code that they contain.

    Raises:
        ArtifactError: the folder does not exist, or has no artifact.
        ConfigurationError: an option is invalid, or the data fits none of the files.
    """
    folder = folder.expanduser()
    if against is None:
        refuse_model_options(model_options)
    if against is not None and data is None and not measure_latency:
        raise ConfigurationError(
            "--against has no effect: neither latency nor accuracy is measured",
            hint="leave --no-bench out, or give --data",
        )
    if measure_latency:
        from timmx.tools.bench import check_seconds

        check_seconds(seconds)
    if data is not None and not data.expanduser().exists():
        raise ConfigurationError(
            f"--data {data} does not exist",
            hint="name a folder with one folder per class, or a CSV of path,label",
        )
    rows, left_out = _recorded(folder)
    evaluations: dict[str, Evaluation | MultiLabelEvaluation] = {}
    bench = None
    model = None
    if against is not None:
        model = Row(name=f"{default_name(ExportRequest(model=against))} (PyTorch)", precision="fp32")
    if data is not None:
        rows, model, evaluations = _with_accuracy(rows, model, data, against, model_options, trust)
    if measure_latency:
        rows, model, bench = _with_latency(rows, model, against, model_options, seconds, trust)
    return FolderComparison(
        folder=folder,
        rows=(*([model] if model is not None else []), *rows),
        left_out=tuple(left_out),
        data=data,
        evaluations=evaluations,
        bench=bench,
    )


def _recorded(folder: Path) -> tuple[list[Row], list[tuple[str, str]]]:
    """Rows from the files' metadata and recorded verifications, without running anything; and what was left out."""
    if not folder.exists():
        raise ArtifactError(
            f"folder {folder} does not exist", hint="name a folder with files that timmx wrote"
        )
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is a file, not a folder",
            hint=f"name the folder that it is in, or use timmx inspect {folder}",
        )
    rows: list[Row] = []
    left_out: list[tuple[str, TimmxError]] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == MANIFEST_NAME or not path.suffix:
            continue
        try:
            backend = backend_for(path)
        except BackendError as exc:
            if any(path.suffix in facts["suffixes"] for facts in known_backends().values()):
                left_out.append((path.name, exc))
            continue
        try:
            require_artifact(path)
            content = backend.read_metadata(path)
            if not content:
                raise ArtifactError("timmx did not write it", hint="export the model again with timmx")
            metadata = Metadata.parse(path, content)
            files = backend.files(path)
            verification = (recall(path, files) or {}).get("verification", {})
            per_label = not metadata.outputs[0].exclusive
            rows.append(
                Row(
                    name=path.name,
                    path=path,
                    backend=backend.name,
                    input_size=metadata.input.size,
                    size_bytes=artifact_size(files),
                    precision=metadata.precision,
                    status=str(verification.get("status", "")),
                    snr_db=_number(verification.get("snr_db")),
                    resolvable_db=_number(verification.get("resolvable_db")),
                    exact_db=_number(verification.get("exact_db")),
                    agreement=_number(verification.get("label_agreement" if per_label else "top1_agreement")),
                    per_label=per_label,
                    inputs=_inputs(str(verification.get("origin", ""))),
                )
            )
        except TimmxError as exc:
            left_out.append((path.name, exc))
    if not rows:
        reasons = "".join(f"; {name}: {exc.message}" for name, exc in left_out)
        fixes = dict.fromkeys(exc.hint for _, exc in left_out if exc.hint)
        raise ArtifactError(
            f"{folder} has no artifact that an installed backend opens{reasons}",
            hint="; ".join(fixes) if left_out else f"timmx export MODEL --to FORMAT -o {folder}",
        )
    return rows, [(name, _line(exc)) for name, exc in left_out]


def _with_accuracy(
    rows: Sequence[Row],
    model: Row | None,
    data: Path,
    against: str | None,
    model_options: Mapping[str, Any] | None,
    trust: bool,
) -> tuple[list[Row], Row | None, dict[str, Evaluation | MultiLabelEvaluation]]:
    """Add accuracies; the model is run once, with the first file that can be evaluated."""
    from timmx.tools.eval import evaluate

    measured: list[Row] = []
    evaluations: dict[str, Evaluation | MultiLabelEvaluation] = {}
    first: TimmxError | None = None
    pending = against
    for row in rows:
        assert row.path is not None
        try:
            result = evaluate(
                row.path,
                data,
                against=pending,
                model_options=(model_options or {}) if pending else None,
                trust=trust,
            )
        except TimmxError as exc:
            first = first or exc
            measured.append(replace(row, errors=(*row.errors, f"accuracy: {_line(exc)}")))
            continue
        evaluations[row.name] = result
        measured.append(_with_figures(row, result))
        if model is not None and result.against is not None:
            model, pending = _with_figures(model, result.against), None
    if first is not None and not evaluations:
        raise first
    return measured, model, evaluations


def _with_figures(row: Row, result: Evaluation | Comparison | MultiLabelEvaluation | LabelComparison) -> Row:
    from timmx.tools.eval import Comparison, Evaluation

    if isinstance(result, (Evaluation, Comparison)):
        return replace(row, top1=result.top1, top1_interval=_pair(result.top1_interval))
    return replace(row, per_label=True, mean_average_precision=result.scores.mean_average_precision)


def _with_latency(
    rows: Sequence[Row],
    model: Row | None,
    against: str | None,
    model_options: Mapping[str, Any] | None,
    seconds: float,
    trust: bool,
) -> tuple[list[Row], Row | None, BenchResult]:
    from timmx.tools.bench import bench

    result = bench(
        [row.path for row in rows if row.path is not None],
        against=against,
        model_options=model_options,
        seconds=seconds,
        trust=trust,
    )
    measured = []
    for row in (*([model] if model is not None else []), *rows):
        cases = [case for case in result.cases if case.path == row.path and not case.refused]
        if not cases:
            measured.append(row)
            continue
        case = min(cases, key=lambda item: item.batch_size)
        if case.error:
            measured.append(replace(row, errors=(*row.errors, f"latency: {case.error}")))
            continue
        measured.append(
            replace(
                row,
                batch_size=case.batch_size,
                p50_ms=case.p50_ms,
                p90_ms=case.p90_ms,
                images_per_s=case.throughput,
                engine=case.engine,
            )
        )
    if model is not None:
        model = measured.pop(0)
    return measured, model, result


def _line(exc: TimmxError) -> str:
    """The message and the hint on one line."""
    return f"{exc.message}; {exc.hint}" if exc.hint else exc.message


def _inputs(origin: str) -> str:
    """The inputs of a verification, with the folder's name instead of its path, which differs between machines."""
    what, of, folder = origin.partition(" of ")
    return f"{what}{of}{folder.replace(os.sep, '/').rpartition('/')[2]}"


def _pair(interval: Any) -> tuple[float, float]:
    low, high = interval
    return float(low), float(high)


def _number(value: Any) -> float | None:
    """A number, which for infinity is a string in JSON."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
