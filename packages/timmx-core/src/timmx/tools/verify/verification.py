"""Repeats the verification of a file, against its PyTorch model or another file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from timmx.artifact import open_with, read_artifact, remember
from timmx.base import artifact_size, reporter
from timmx.contract import ExportRequest, OpenSettings, Precision, agreement_share
from timmx.errors import ArtifactError, ConfigurationError, VerificationError
from timmx.inputs import ImagePreprocessor
from timmx.registry import build
from timmx.tools.subject import check_weights, file_named, refuse_model_options, request_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.contract import Metadata, RuntimeDevice
    from timmx.verification import Model, Reference, VerificationReport


@dataclass(frozen=True, kw_only=True)
class FileVerification:
    """The verification of a file.

    Attributes:
        path: the file.
        files: all files that belong to it, `path` first.
        backend: name of the backend that opened it.
        precision: the arithmetic inside, from its metadata.
        size_bytes: of all files together.
        against: name of the model or file that it was compared with.
        verification: the results.
    """

    path: Path
    files: tuple[Path, ...]
    backend: str
    precision: Precision
    size_bytes: int
    against: str
    verification: VerificationReport

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "path": str(self.path),
            "files": [str(path) for path in self.files],
            "backend": self.backend,
            "precision": str(self.precision),
            "size_bytes": self.size_bytes,
            "against": self.against,
            "verification": self.verification.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class _Baseline:
    """What a file is compared with."""

    name: str
    reference: Reference
    conclusive: bool
    trained: bool
    model: Model | None
    is_origin: bool
    """It is the model that the file was exported from: the results are recorded."""


def verify_file(
    path: Path,
    against: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    *,
    verify_data: Path | None = None,
    min_snr: float | None = None,
    min_agreement: float | None = None,
    trust: bool = False,
    runtime_device: RuntimeDevice | None = None,
) -> FileVerification:
    """Compare a file with the model that it was exported from, as the export did, and record the results.

    Args:
            path: a file of any installed backend.
        against: a model, named as for an export, or another file that timmx wrote; by default the model in the
            metadata.
        model_options: values for `timmx.contract.MODEL_OPTIONS`.
        verify_data: a folder of images; by default the samples of a `local-dir:` model, else synthetic inputs.
        min_snr: the minimum ratio in dB; by default the floor of the file's precision.
        min_agreement: the minimum top-1 agreement, as a share or in percent; see `timmx.verification.verify`.
        trust: the files may run code that they contain.
        runtime_device: where the runtime of `path` computes; None for its default.

    Raises:
        ArtifactError: the file does not exist, is damaged, or was not written by timmx.
        ConfigurationError: it is unknown where the model is, or the model takes other inputs than the file.
        RuntimeUnavailable: the file cannot run here.
        VerificationError: the outputs differ from the model's.
    """
    share = agreement_share(min_agreement)
    backend, metadata = read_artifact(path := path.expanduser())
    precision = precision_of(path, metadata)
    other = file_named(against)
    if other is not None:
        refuse_model_options(model_options, f"and --against {other} is a file")
        baseline = _file_baseline(other, path, metadata, verify_data, OpenSettings(trust=trust))
    else:
        request = request_for(metadata, against, model_options)
        baseline = _model_baseline(replace(request, verify_data=verify_data), metadata)
    from timmx.verification import Status, judge_arithmetic, verify

    reporter().step("Verifying")
    with open_with(backend, path, OpenSettings(trust=trust, runtime_device=runtime_device)) as runner:
        report = verify(
            runner,
            baseline.reference,
            precision=precision,
            batch_size=metadata.batch_size,
            conclusive=baseline.conclusive,
            trained=baseline.trained,
            min_snr_db=min_snr,
            min_agreement=share,
        )
        report = judge_arithmetic(
            report,
            runner,
            baseline.reference,
            baseline.model,
            precision=precision,
            fixed_floor=min_snr is not None,
        ).report
    files = tuple(backend.files(path))
    if baseline.is_origin:
        remember(files, report.to_dict())
    if report.status is Status.FAILED:
        shown = "".join(f". {note.rstrip('.')}" for note in report.notes)
        raise VerificationError(
            f"the outputs of {path} do not match those of {baseline.name}: {report.reason}{shown}",
            report,
            hint="export it again, name the model that it was made from with --against, or set another floor with "
            + ("--min-agreement" if report.disagrees else "--min-snr"),
        )
    for note in report.notes:
        reporter().warn(note)
    return FileVerification(
        path=path,
        files=files,
        backend=backend.name,
        precision=precision,
        size_bytes=artifact_size(files),
        against=baseline.name,
        verification=report,
    )


def precision_of(path: Path, metadata: Metadata) -> Precision:
    """The arithmetic inside, which determines the floor."""
    try:
        return Precision(metadata.precision)
    except ValueError as exc:
        raise ArtifactError(
            f"{path} has a precision that this timmx does not know, {metadata.precision!r}",
            hint="update timmx-core",
        ) from exc


def _model_baseline(request: ExportRequest, metadata: Metadata) -> _Baseline:
    from timmx.exporting import ModelSession

    session = ModelSession(request)  # not prepared, since nothing is exported
    weights = session.loaded.weights_sha256
    check_weights(weights, metadata, request.source)
    same = weights == metadata.model.weights_sha256
    conclusive = (
        session.loaded.conclusive or metadata.model.conclusive
    )  # random weights are then the wrong ones
    trained = session.loaded.trained or metadata.model.trained
    return _Baseline(
        name=request.source,
        reference=session.reference,
        conclusive=conclusive,
        trained=trained,
        model=session,
        is_origin=same,
    )


def _file_baseline(
    other: Path, path: Path, metadata: Metadata, verify_data: Path | None, settings: OpenSettings
) -> _Baseline:
    """Another file's outputs for the same images, each file with its own input format."""
    from timmx.exporting import ArtifactSession
    from timmx.inputs import ImageSamples, choose_samples

    backend, other_metadata = read_artifact(other)
    precision_of(other, other_metadata)
    preprocessor = ImagePreprocessor.of(metadata)
    if ImagePreprocessor.of(other_metadata).data_config != preprocessor.data_config:
        raise ConfigurationError(
            f"{other} and {path} preprocess images differently: size, crop, interpolation, mean or std",
            hint="compare files where these are the same; timmx inspect FILE shows them",
        )
    request = build(ExportRequest, {"model": None, "verify_data": verify_data})
    session = ArtifactSession(request, other, other_metadata, lambda: backend.open(other, settings))
    samples = choose_samples(verify_data, None, preprocessor.data_config, preprocessor.in_graph)
    labels, truth = session.loaded.labels, None
    if session.reference.classes and labels and isinstance(samples, ImageSamples):
        truth = samples.true_classes(labels)
    reference = replace(session.reference, samples=samples, truth=truth)
    return _Baseline(
        name=str(other),
        reference=reference,
        conclusive=session.loaded.conclusive,
        trained=session.loaded.trained,
        model=None,
        is_origin=False,
    )
