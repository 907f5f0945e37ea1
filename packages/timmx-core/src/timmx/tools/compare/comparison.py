"""The artifacts of a folder side by side: size, precision, proof, accuracy and latency."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from timmx.artifact import MANIFEST_NAME, backend_for, recall
from timmx.base import artifact_size
from timmx.contract import ExportRequest, Metadata
from timmx.errors import ArtifactError, BackendError, ConfigurationError, TimmxError
from timmx.exporting import default_name
from timmx.registry import known_backends
from timmx.tools.subject import refuse_model_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from timmx.tools.bench import BenchResult
    from timmx.tools.eval import Evaluation


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artifact, or the PyTorch model beside them.

    Attributes:
        path: None for the model.
        input_size: channels, height and width of what it takes; empty for the model, which takes what the first file
            does.
        snr_db: of its verification, as it is remembered; None where nothing is.
        agreement: the share of the verification's inputs that it reads as the model does.
        inputs: what verification compared on, such as `500 images of samples`; empty where that is not known.
        status: of its verification; empty where it is not known.
        top1: accuracy on the data, with `top1_interval` of 95 %; None where there is no data.
        batch_size: that the latency was measured at.
        p50_ms: median latency of a run; None where it was not measured.
        engine: what computed where it was not the format's own runtime: the latency is then of no device.
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
    agreement: float | None = None
    inputs: str = ""
    top1: float | None = None
    top1_interval: tuple[float, float] | None = None
    batch_size: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    images_per_s: float | None = None
    engine: str = ""
    errors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        found = asdict(self) | {"path": None if self.path is None else str(self.path)}
        if self.snr_db is not None and abs(self.snr_db) == float("inf"):
            found["snr_db"] = str(self.snr_db)
        return found


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """What a folder holds.

    Attributes:
        rows: the model first where there is one, then by name.
        left_out: names of what looks like an artifact and is none of ours, each with the reason.
        evaluations: by row's name, where there was data.
        bench: where latency was measured.
    """

    folder: Path
    rows: tuple[Row, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    data: Path | None = None
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    bench: BenchResult | None = None

    @property
    def unverified(self) -> tuple[Row, ...]:
        """Files of which no verification is known."""
        return tuple(row for row in self.rows if row.path is not None and row.snr_db is None)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Files of which something that was asked for could not be measured."""
        return tuple(row for row in self.rows if row.errors)

    @property
    def mixed_inputs(self) -> str:
        """That the verifications were on different inputs, and on which; empty where they were on the same."""
        names: dict[str, list[str]] = {}
        for row in self.rows:
            if row.snr_db is not None:
                names.setdefault(row.inputs, []).append(row.name)
        if len(names) < 2:
            return ""
        told = "; ".join(f"{', '.join(files)} on {inputs or 'others'}" for inputs, files in names.items())
        return f"The verifications were on different inputs, so SNR and agreement are no ranking: {told}."

    @property
    def alike(self) -> bool:
        """Whether all latencies are of the same work: of images of one size, as many a run."""
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
) -> SideBySide:
    """Set all artifacts of a folder side by side.

    Args:
        folder: with files that timmx wrote, of any installed backend.
        data: images of known classes, as `timmx.tools.evaluate` takes them.
        against: the PyTorch model, which gets a row of its own where there is anything to measure.
        model_options: which weights and shape it has; see `timmx.contract.MODEL_OPTIONS`.
        measure_latency: run `timmx.tools.bench` on them.
        seconds: of timed runs for each.

    Raises:
        ArtifactError: there is no such folder, or no artifact in it.
        ConfigurationError: the options or the data make no sense for any of them.
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
    rows, left_out = _stated(folder)
    evaluations: dict[str, Evaluation] = {}
    bench = None
    model = None
    if against is not None:
        model = Row(name=f"{default_name(ExportRequest(model=against))} (PyTorch)", precision="fp32")
    if data is not None:
        rows, model, evaluations = _with_accuracy(rows, model, data, against, model_options)
    if measure_latency:
        rows, model, bench = _with_latency(rows, model, against, model_options, seconds)
    everything = (*([model] if model is not None else []), *rows)
    return SideBySide(
        folder=folder,
        rows=everything,
        left_out=tuple(left_out),
        data=data,
        evaluations=evaluations,
        bench=bench,
    )


def _stated(folder: Path) -> tuple[list[Row], list[tuple[str, str]]]:
    """What the files and what is remembered of them say; nothing is run."""
    if not folder.exists():
        raise ArtifactError(f"there is no folder {folder}", hint="name a folder with files that timmx wrote")
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
            content = backend.read_metadata(path)
            if not content:
                raise ArtifactError("timmx did not write it")
            metadata = Metadata.parse(path, content)
            files = backend.files(path)
            known = (recall(path, files) or {}).get("verification", {})
            rows.append(
                Row(
                    name=path.name,
                    path=path,
                    backend=backend.name,
                    input_size=metadata.input.size,
                    size_bytes=artifact_size(files),
                    precision=metadata.precision,
                    status=str(known.get("status", "")),
                    snr_db=_number(known.get("snr_db")),
                    agreement=_number(known.get("top1_agreement")),
                    inputs=_inputs(str(known.get("origin", ""))),
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
) -> tuple[list[Row], Row | None, dict[str, Evaluation]]:
    """The model is run once, beside the first file that can be evaluated."""
    from timmx.tools.eval import evaluate

    found: list[Row] = []
    evaluations: dict[str, Evaluation] = {}
    first: TimmxError | None = None
    beside = against
    for row in rows:
        assert row.path is not None
        try:
            result = evaluate(
                row.path, data, against=beside, model_options=(model_options or {}) if beside else None
            )
        except TimmxError as exc:
            first = first or exc
            found.append(replace(row, errors=(*row.errors, f"accuracy: {_line(exc)}")))
            continue
        evaluations[row.name] = result
        found.append(replace(row, top1=result.top1, top1_interval=_pair(result.top1_interval)))
        if model is not None and result.against is not None:
            other = result.against
            model = replace(model, top1=other.top1, top1_interval=_pair(other.top1_interval))
            beside = None
    if first is not None and not evaluations:
        raise first
    return found, model, evaluations


def _with_latency(
    rows: Sequence[Row],
    model: Row | None,
    against: str | None,
    model_options: Mapping[str, Any] | None,
    seconds: float,
) -> tuple[list[Row], Row | None, BenchResult]:
    from timmx.tools.bench import bench

    result = bench(
        [row.path for row in rows if row.path is not None],
        against=against,
        model_options=model_options,
        seconds=seconds,
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
    """The message and the hint in one line."""
    return f"{exc.message}; {exc.hint}" if exc.hint else exc.message


def _inputs(origin: str) -> str:
    """What a verification was on, without where that lay: a folder has one path here and another there."""
    what, of, place = origin.partition(" of ")
    return f"{what}{of}{place.replace(os.sep, '/').rpartition('/')[2]}"


def _pair(interval: Any) -> tuple[float, float]:
    low, high = interval
    return float(low), float(high)


def _number(value: Any) -> float | None:
    """Infinity is a string in JSON."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
