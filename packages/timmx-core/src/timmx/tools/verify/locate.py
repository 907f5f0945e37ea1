"""Compares a file with its PyTorch model operation by operation, to locate the one that computes something else."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from timmx.artifact import open_with, read_artifact
from timmx.base import reporter
from timmx.contract import OpenSettings
from timmx.errors import ConfigurationError, UnsupportedError
from timmx.tools.subject import check_weights, file_named, request_for
from timmx.tools.verify.verification import precision_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.verification import OperationReport


@dataclass(frozen=True)
class LocatedOperations:
    """The operations of a file, each fed the model's values.

    Attributes:
        path: the file.
        against: name of the model.
        report: the figures.
        engine: what ran the operations, if it is not the format's own runtime.
    """

    path: Path
    against: str
    report: OperationReport
    engine: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `snr_db` is `inf` for an operation that equals the model's."""
        wrong = self.report.wrong
        return {
            "path": str(self.path),
            "against": self.against,
            "engine": self.engine,
            "operations": [
                asdict(item)
                | {
                    "snr_db": str(item.snr_db)
                    if item.snr_db in (float("inf"), float("-inf"))
                    else item.snr_db
                }
                for item in (*self.report.operations, *self.report.outputs)
            ],
            "first_wrong": None if wrong is None else wrong.name,
        }


def locate_operations(
    path: Path,
    against: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    *,
    verify_data: Path | None = None,
    trust: bool = False,
) -> LocatedOperations:
    """Compare the operations of a file one by one with those of its PyTorch model.

    Args:
        path: see `verify_file`.
        against: a model; by default the one in the metadata.
        model_options: see `verify_file`.
        verify_data: see `verify_file`.
        trust: see `verify_file`.

    Raises:
        ConfigurationError: `against` is a file.
        UnsupportedError: the file's runtime does not run operations separately, or the model is too large.
        TimmxError: see `verify_file`.
    """
    from timmx.exporting import ModelSession
    from timmx.verification import Skipped, compare_by_operation

    backend, metadata = read_artifact(path := path.expanduser())
    if file_named(against) is not None:
        raise ConfigurationError(
            f"--locate compares with a PyTorch model, and --against {against} is a file",
            hint="name a model with --against",
        )
    request = request_for(metadata, against, model_options)
    session = ModelSession(replace(request, verify_data=verify_data))
    check_weights(session.loaded.weights_sha256, metadata, request.source)
    session.prepare()
    with open_with(backend, path, OpenSettings(trust=trust)) as runner:
        reporter().step("Comparing operation by operation")
        try:
            report = compare_by_operation(
                runner, session.reference, session, precision_of(path, metadata), near=True
            )
        except Skipped as exc:
            raise UnsupportedError(
                f"the operations of {path} cannot be compared one by one: {exc}", hint="leave --locate out"
            ) from exc
        return LocatedOperations(path, request.source, report, runner.engine)
