"""One export, from the request to the published artifact."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from timmx.artifact import remember, remember_export, staging, writing
from timmx.base import artifact_size, exact_cuda, reporter, require_artifact, without_progress_bars
from timmx.contract import Metadata, OpenSettings, Precision, Repair, agreement_share
from timmx.errors import (
    ArtifactError,
    BackendError,
    PluginError,
    RuntimeUnavailable,
    UnsupportedError,
    VerificationError,
)
from timmx.exporting.job import Job
from timmx.exporting.validation import calibration_data, check_weights, validate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx.artifact import Staging
    from timmx.contract import ExportBackend, Exported, ExportRequest
    from timmx.exporting.artifact_session import ArtifactSession
    from timmx.exporting.session import ModelSession
    from timmx.verification import VerificationReport


ONE_AT_A_TIME = threading.RLock()
"""torch.export can trace only one model at a time in a process; exports in other threads wait."""

_HALVES = (Precision.FP16, Precision.BF16)
_MOST_REPAIRS = 4
_REPAIR_MARGIN_DB, _LARGEST_STEP_DB = 2.0, 20.0
"""The next repair aims higher by what was missing and a margin, or by the largest step if that is less: the file rounds
in another order than the simulation of a repair, and is verified with more inputs."""

_REPAIR_INPUTS = 8
"""Maximum number of inputs that a repair measures with."""

_WISH_STEPS_DB = (4.0, 4.0)
"""How much better than a file that disagrees too often the next one has to be, by layers in float."""

_REPORT = "report it to the backend's authors"


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A published artifact.

    Attributes:
        path: the artifact.
        files: all published files, `path` first.
        backend: the backend's name.
        precision: the artifact's arithmetic.
        size_bytes: size of all files together.
        verification: the result of the verification.
        metadata: the JSON inside the artifact.
        notes: notes for the user.
        rewrites: the rewrites of the preparation: name, count and signal-to-noise ratio to the original in dB.
        seconds: wall time of each step.
    """

    path: Path
    files: tuple[Path, ...]
    backend: str
    precision: Precision
    size_bytes: int
    verification: VerificationReport
    metadata: dict[str, Any]
    notes: tuple[str, ...] = ()
    rewrites: tuple[dict[str, Any], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "path": str(self.path),
            "files": [str(path) for path in self.files],
            "backend": self.backend,
            "precision": str(self.precision),
            "size_bytes": self.size_bytes,
            "verification": self.verification.to_dict(),
            "metadata": self.metadata,
            "notes": list(self.notes),
            "rewrites": list(self.rewrites),
            "seconds": self.seconds,
        }


def export(backend: ExportBackend, request: ExportRequest, options: Any) -> ExportResult:
    """Export a model. If anything fails, an existing output is unchanged.

    Raises:
        TimmxError: one of its subclasses, with a hint.
    """
    output = validate(backend, request, options)
    with staging(output) as stage, ONE_AT_A_TIME:
        start = time.perf_counter()
        session = _session(backend, request, options)
        result = export_session(backend, session, options, stage)
        result.seconds["total"] = round(time.perf_counter() - start, 3)
        return result


def _session(backend: ExportBackend, request: ExportRequest, options: Any) -> ModelSession | ArtifactSession:
    source = backend.source_artifact(options)
    if source is not None:
        from timmx.exporting.artifact_session import ArtifactSession

        require_artifact(source)
        metadata = Metadata.parse(source, backend.read_metadata(source))
        return ArtifactSession(request, source, metadata, lambda: backend.open(source, OpenSettings()))
    from timmx.exporting.session import ModelSession

    # The size is computed from a model without weights, which takes a while: only for a format with a limit.
    limited = backend.weights_limit(options) is not None
    check = partial(check_weights, backend, options) if limited else None
    session = ModelSession(request, check, calibration_data([options]))
    session.prepare()
    return session


def export_session(
    backend: ExportBackend,
    session: ModelSession | ArtifactSession,
    options: Any,
    stage: Staging,
    *,
    record: bool = True,
    threads: int | None = None,
) -> ExportResult:
    """Write, verify and publish one format of a loaded and prepared model.

    Args:
        backend: the backend that writes it.
        session: the model.
        options: the backend's own options.
        stage: where it is written.
        record: store the verification result for `timmx inspect`.
        threads: number of CPU threads for the runtime that verifies it; None lets the runtime choose.

    Raises:
        TimmxError: see `export`.
    """
    if len(session.reference.names) > 1 and backend.capabilities.several_outputs is not True:
        raise UnsupportedError(
            f"this model has {len(session.reference.names)} outputs ({', '.join(session.reference.names)}), "
            f"and {backend.name} takes one: {str(backend.capabilities.several_outputs).rstrip('.')}",
            hint="wrap it in a module that returns one tensor",
        )
    if session.model is not None:
        check_weights(backend, options, sum(tensor.nbytes for tensor in session.model.weights()))
    repairs_left, steps_db = _MOST_REPAIRS if backend.repairs else 0, list(_WISH_STEPS_DB)
    repair: Repair | None = None
    least_db: float | None = None
    while True:
        try:
            return _attempt(
                backend,
                session,
                options,
                stage,
                record,
                repair,
                least_db,
                threads=threads,
                may_repair=repairs_left > 0,
                may_plan=bool(steps_db),
            )
        except _BelowFloor as exc:
            count = min(len(session.reference), _REPAIR_INPUTS)
            inputs = session.reference.samples.take(range(count))
            target_db = exc.floor_db
            if repair is not None:
                missing_db = exc.floor_db - exc.snr_db
                target_db = repair.target_db + min(missing_db + _REPAIR_MARGIN_DB, _LARGEST_STEP_DB)
            repair, repairs_left = Repair(target_db, inputs), repairs_left - 1
        except _Disagrees as exc:
            least_db = exc.snr_db + steps_db.pop(0)
        stage.clear()


class _Disagrees(Exception):  # noqa: N818 - it is not an error
    """A file whose layers were chosen by a plan has another class for too many inputs; its ratio is `snr_db`."""

    def __init__(self, snr_db: float) -> None:
        super().__init__(snr_db)
        self.snr_db = snr_db


class _BelowFloor(Exception):  # noqa: N818 - it is not an error
    """A half-precision file misses its floor, both in dB; operations in float32 may repair it."""

    def __init__(self, snr_db: float, floor_db: float) -> None:
        super().__init__(snr_db, floor_db)
        self.snr_db, self.floor_db = snr_db, floor_db


def _attempt(
    backend: ExportBackend,
    session: ModelSession | ArtifactSession,
    options: Any,
    stage: Staging,
    record: bool,
    repair: Repair | None,
    least_db: float | None,
    *,
    threads: int | None,
    may_repair: bool,
    may_plan: bool,
) -> ExportResult:
    """Write, verify and publish once.

    Args:
        least_db: what a quantization plan must reach; None for its floor.

    Raises:
        _BelowFloor: with `may_repair`, the file misses its floor and may be repaired.
        _Disagrees: with `may_plan`, the file disagrees too often and may have a plan with more layers in float.
    """
    with ExitStack() as open_stages:
        job = Job(session, stage.path, backend, open_stages, repair, least_db)
        # traces record whether TF32 is allowed
        step = "Exporting" if repair is None else "Keeping operations in float32"
        if least_db is not None:
            step = "Exporting with more layers in float"
        with session.step(step), writing(stage.path), exact_cuda():
            exported = _export(backend, job, options)
        may_repair = may_repair and exported.precision in _HALVES
        may_plan = may_plan and job.planned
        if not (may_repair or may_plan):
            _warn(exported.notes)
        metadata = job.final_metadata(exported.precision).to_json()
        _check_written(backend, stage.path, metadata)
        with session.step("Verifying"), exact_cuda():
            verification = _verify(
                backend,
                session,
                stage.path,
                exported,
                options,
                OpenSettings(threads=threads),
                job.calibrated_on,
                may_repair=may_repair,
                may_plan=may_plan,
            )
        if may_repair or may_plan:
            _warn(exported.notes)
        with session.step("Publishing"):
            # The artifact comes last: if another file cannot be published, it is unchanged.
            others: tuple[Path, ...] = ()
            for extra in job.extra_outputs:
                others += extra.publish((extra.output,) if extra.output.exists() else ())
            files = (*stage.publish(_old_files(backend, stage.output)), *others)
            own = backend.files(files[0])
            if record:
                remember(own, verification.to_dict(), exported.notes)
                remember_export(own, metadata)
    return ExportResult(
        path=files[0],
        files=files,
        backend=backend.name,
        precision=exported.precision,
        size_bytes=artifact_size(files),
        verification=verification,
        metadata=metadata,
        notes=(*session.loaded.notes, *job.notes, *exported.notes, *verification.notes),
        rewrites=tuple(
            {"name": item.name, "count": item.count, "snr_db": round(item.snr_db, 1)}
            for item in session.rewrites
        ),
        seconds=session.seconds,
    )


def _export(backend: ExportBackend, job: Job, options: Any) -> Exported:
    try:
        with without_progress_bars():
            return backend.export(job, options)
    except PluginError as exc:
        if isinstance(exc.__cause__, OSError):
            with suppress(OSError), writing(job.path):  # a full disk is not the plugin's error
                raise exc.__cause__ from None
        raise


def _check_written(backend: ExportBackend, path: Path, metadata: dict[str, Any]) -> None:
    """Check that the files in the staging folder can be published and hold the metadata of the job."""
    who = f"the backend {backend.name}"
    if not path.exists():
        raise BackendError(f"{who} did not write {path.name}", hint=_REPORT)
    inside = [item for item in backend.files(path) if item.parent != path.parent]
    if inside:
        raise BackendError(
            f"{who} returns {inside[0]} from `files`, which may only return the artifact and paths next to it; a "
            "folder is one entry",
            hint=_REPORT,
        )
    links = [item.name for item in path.parent.rglob("*") if item.is_symlink()]
    if links:
        raise BackendError(
            f"{who} wrote a link, {links[0]}, which would break when it is published", hint=_REPORT
        )
    stored = backend.read_metadata(path)
    if stored != metadata:
        keys = sorted(key for key in stored.keys() | metadata.keys() if stored.get(key) != metadata.get(key))
        raise BackendError(
            f"{who} lost or changed the artifact's metadata: {', '.join(keys)}",
            hint=f"{_REPORT}: it must write job.metadata(...).dumps() for the precision that `export` returns",
        )


def _verify(
    backend: ExportBackend,
    session: ModelSession | ArtifactSession,
    path: Path,
    exported: Exported,
    options: Any,
    settings: OpenSettings,
    calibrated_on: str,
    *,
    may_repair: bool,
    may_plan: bool,
) -> VerificationReport:
    """The report.

    Raises:
        VerificationError: the file fails.
        _BelowFloor: with `may_repair`, the file misses its floor.
        _Disagrees: with `may_plan`, it disagrees with the model on too many inputs.
    """
    from timmx.verification import Status, VerificationReport, below_floor, judge_arithmetic, verify

    request = session.request
    if not request.verify:
        return VerificationReport(status=Status.SKIPPED, reason="--no-verify was given")
    try:
        with backend.open_exported(path, options, settings) as runner:
            report = verify(
                runner,
                session.reference,
                precision=exported.precision,
                batch_size=None if request.dynamic_batch else request.batch_size or 1,
                conclusive=session.loaded.conclusive,
                trained=session.loaded.trained,
                min_snr_db=request.min_snr,
                min_agreement=agreement_share(request.min_agreement),
            )
            if may_repair and below_floor(report):
                assert report.floor_db is not None
                assert report.snr_db is not None
                raise _BelowFloor(report.snr_db, report.floor_db)
            if may_plan and report.disagrees and report.snr_db is not None:
                raise _Disagrees(report.snr_db)
            judgment = judge_arithmetic(
                report,
                runner,
                session.reference,
                session.model,
                precision=exported.precision,
                fixed_floor=request.min_snr is not None,
            )
            report = judgment.report
    except RuntimeUnavailable as exc:
        checks = "the prepared model was compared with the original, and the file's metadata was read back"
        reason = exc.message.rstrip(".") + (f" ({exc.hint})" if exc.hint else "")
        return VerificationReport(status=Status.UNPROVEN, reason=f"{reason}. Instead, {checks}")
    if report.status is Status.FAILED:
        reasons = [report.reason, *(note.rstrip(".") for note in report.notes)]
        if calibrated_on:
            reasons.append(f"It was calibrated on {calibrated_on}: inputs of another kind can cause this")
        flag = "--min-agreement" if report.disagrees else "--min-snr"
        hint = f"{judgment.hint}set another floor with {flag}, or skip verification with --no-verify"
        if any(output.vacuous for output in report.outputs):
            hint = f"check that the weights are trained and the images of --verify-data differ; or {hint}"
        raise VerificationError(
            f"verification failed, and nothing was published: {'. '.join(reasons)}",
            report,
            hint=hint,
        )
    _warn(report.notes)
    return report


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        reporter().warn(note)


def _old_files(backend: ExportBackend, output: Path) -> tuple[Path, ...]:
    """All files of the artifact that is being replaced; only itself if it cannot be read."""
    if not output.exists():
        return ()
    try:
        return backend.files(output)
    except ArtifactError:  # another kind of file has that name; the user asked to replace it
        return (output,)
