"""A file's verification again, later or elsewhere: beside its PyTorch model, or beside another file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from timmx.artifact import described, remember
from timmx.base import artifact_size, reporter
from timmx.contract import ExportRequest, OpenSettings, Precision
from timmx.errors import ArtifactError, ConfigurationError, VerificationError
from timmx.inputs import ImagePreprocessor
from timmx.registry import build
from timmx.tools.subject import check_weights, file_named, refuse_model_options, request_for

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.contract import Metadata
    from timmx.verification import Reference, VerificationReport


@dataclass(frozen=True, kw_only=True)
class FileVerification:
    """A file that was measured.

    Attributes:
        path: the file.
        files: all that belongs to it, `path` first.
        backend: the name of the one that opened it.
        precision: the arithmetic inside, as its metadata has it.
        size_bytes: of all files together.
        against: what it was compared with, as a person names it.
        verification: the figures.
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


@dataclass(frozen=True)
class _Standard:
    """What a file is judged by."""

    name: str
    reference: Reference
    trained: bool
    is_origin: bool
    """It is the model that the file was made from: its figures are worth remembering."""


def verify_file(
    path: Path,
    against: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    *,
    verify_data: Path | None = None,
    min_snr: float | None = None,
) -> FileVerification:
    """Run a file beside the model that it was made from, as its export did, and remember the figures.

    Args:
        path: of any installed backend's suffix.
        against: a model as an export takes it, or another file that timmx wrote; by default what the metadata names.
        model_options: values for `timmx.contract.MODEL_OPTIONS`.
        verify_data: a folder of images; by default the samples of a `local-dir:`, else made inputs.
        min_snr: the least ratio in dB; by default the floor of the file's precision.

    Raises:
        ArtifactError: there is no such file, it is damaged, or timmx did not write it.
        ConfigurationError: nobody knows where the model is, or it takes other inputs than the file.
        RuntimeUnavailable: the file cannot run here.
        VerificationError: it does not compute what the model computes.
    """
    backend, metadata = described(path := path.expanduser())
    precision = _precision(path, metadata)
    other = file_named(against)
    if other is not None:
        refuse_model_options(model_options, f"and --against {other} is a file")
        standard = _file_standard(other, path, metadata, verify_data)
    else:
        request = request_for(metadata, against, model_options)
        standard = _model_standard(replace(request, verify_data=verify_data), metadata)
    from timmx.verification import Status, verify

    reporter().step("Verifying")
    with backend.open(path, OpenSettings()) as runner:
        report = verify(
            runner,
            standard.reference,
            precision=precision,
            batch_size=metadata.batch_size,
            trained=standard.trained,
            min_snr_db=min_snr,
        )
    files = tuple(backend.files(path))
    if standard.is_origin:
        remember(files, report.to_dict())
    if report.status is Status.FAILED:
        shown = "".join(f". {note.rstrip('.')}" for note in report.notes)
        raise VerificationError(
            f"{path} does not compute what {standard.name} computes: {report.reason}{shown}",
            report,
            hint="export it again, name the model that it was made from with --against, or set another floor with "
            "--min-snr",
        )
    for note in report.notes:
        reporter().warn(note)
    return FileVerification(
        path=path,
        files=files,
        backend=backend.name,
        precision=precision,
        size_bytes=artifact_size(files),
        against=standard.name,
        verification=report,
    )


def _precision(path: Path, metadata: Metadata) -> Precision:
    """The arithmetic inside, which decides the floor."""
    try:
        return Precision(metadata.precision)
    except ValueError as exc:
        raise ArtifactError(
            f"{path} has a precision that this timmx does not know, {metadata.precision!r}",
            hint="update timmx-core",
        ) from exc


def _model_standard(request: ExportRequest, metadata: Metadata) -> _Standard:
    from timmx.exporting import ModelSession

    session = ModelSession(request)  # not prepared: nothing is exported
    weights = session.loaded.weights_sha256
    check_weights(weights, metadata, request.source)
    same = weights == metadata.model.weights_sha256
    trained = session.loaded.trained or metadata.model.trained  # then random weights are the wrong ones
    return _Standard(request.source, session.reference, trained, same)


def _file_standard(other: Path, path: Path, metadata: Metadata, verify_data: Path | None) -> _Standard:
    """Another file's answers to the same images, each fed as it wants them."""
    from timmx.exporting import ArtifactSession
    from timmx.inputs import ImageSamples, choose_samples

    backend, theirs = described(other)
    _precision(other, theirs)
    preprocessor = ImagePreprocessor.of(metadata)
    if ImagePreprocessor.of(theirs).data_config != preprocessor.data_config:
        raise ConfigurationError(
            f"{other} and {path} prepare images differently: in size, crop, interpolation, mean or std",
            hint="compare files where these are the same; timmx inspect FILE shows them",
        )
    request = build(ExportRequest, {"model": None, "verify_data": verify_data})
    session = ArtifactSession(request, other, theirs, lambda: backend.open(other, OpenSettings()))
    samples = choose_samples(verify_data, None, preprocessor.data_config, preprocessor.in_graph)
    labels, truth = session.loaded.labels, None
    if session.reference.classes and labels and isinstance(samples, ImageSamples):
        truth = samples.true_classes(labels)
    reference = replace(session.reference, samples=samples, truth=truth)
    return _Standard(str(other), reference, session.loaded.trained, False)
