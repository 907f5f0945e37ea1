"""Exports one model to several formats, with one load, preparation and reference run, and one capture per shape."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.artifact import MANIFEST_NAME, digest, staging
from timmx.base import brief, parse_json, peak_resident_bytes, read_file, reporter, why_not_in
from timmx.contract import ExportRequest
from timmx.errors import ArtifactError, ConfigurationError, TimmxError, error_dict
from timmx.exporting.parallel import Shared, check_jobs, export_in_parallel
from timmx.exporting.parts import export_target
from timmx.exporting.pipeline import ONE_AT_A_TIME, ExportResult
from timmx.exporting.targets import Target, TargetOptions, parse_target, plan, plan_each, target_of
from timmx.exporting.validation import calibration_data
from timmx.registry import build, option_specs, reject_unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from timmx.artifact import Staging

_LOCK_TIMEOUT_S = 10.0
_LARGEST_MANIFEST = 16 * 10**6

SCHEMA = 1
"""The schema version of `timmx.json`."""


@dataclass(frozen=True)
class Failure:
    """A target that was not published; an existing file is unchanged.

    Attributes:
        name: its file's name.
        backend: the backend's name.
        error: what went wrong.
    """

    name: str
    backend: str
    error: Exception

    @property
    def message(self) -> str:
        """The error in one line."""
        return str(error_dict(self.error)["message"])

    @property
    def hint(self) -> str:
        """How to fix it; may be empty."""
        return str(error_dict(self.error)["hint"])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"name": self.name, "backend": self.backend, "error": error_dict(self.error)}


@dataclass(frozen=True, kw_only=True)
class ManyResult:
    """The result of several exports.

    Attributes:
        model: the model's name.
        folder: the output folder.
        results: the published targets, in the requested order.
        failures: the targets that failed.
        seconds: wall time of the steps that all targets share, and `total`.
        jobs: number of processes that exported at once.
        memory_bytes: largest memory of all processes together; None if it was not measured.
    """

    model: str
    folder: Path
    results: tuple[ExportResult, ...]
    failures: tuple[Failure, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    jobs: int = 1
    memory_bytes: int | None = None

    @property
    def manifest(self) -> Path:
        """The path of `timmx.json`, which records the results."""
        return self.folder / MANIFEST_NAME

    @property
    def exit_code(self) -> int:
        """0 if all targets were published, 1 after an internal error, otherwise 2."""
        if not self.failures:
            return 0
        return 2 if all(isinstance(item.error, TimmxError) for item in self.failures) else 1

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "model": self.model,
            "output": str(self.folder),
            "manifest": str(self.manifest) if self.results else None,
            "artifacts": [result.to_dict() for result in self.results],
            "failed": [failure.to_dict() for failure in self.failures],
            "seconds": self.seconds,
            "jobs": self.jobs,
            "memory_bytes": self.memory_bytes,
        }


def export_many(
    model: Any,
    to: Sequence[str | Mapping[str, Any]],
    output: str | Path | None = None,
    *,
    jobs: int | None = 1,
    command: str | None = None,
    **options: Any,
) -> ManyResult:
    """Export a model to several formats.

    Args:
        model: a timm name, `hf-hub:OWNER/NAME`, `local-dir:FOLDER`, or a module with a `pretrained_cfg`.
        to: the targets: `"NAME"`, `"NAME:KEY=VALUE,..."`, or a mapping with `format` and options.
        output: the folder; files in it are replaced on success. Default: the current folder, where files are only
            overwritten with `force`.
        jobs: number of formats to export at once, in child processes; 1 for this process, None to decide by cores and
            memory.
        command: the command line, to be recorded in `timmx.json`.
        options: the shared options, with underscores. They apply to all targets.

    Returns:
        The published and the failed targets: a failure does not stop the others.

    Raises:
        TimmxError: an option, a target or the model is invalid; then nothing was exported.
    """
    targets = plan_exports(model, to, output, **options)
    folder = Path(output).expanduser() if output is not None else Path()
    return export_targets(targets, folder, command, jobs)


def plan_exports(
    model: Any, to: Sequence[str | Mapping[str, Any]], output: str | Path | None, **options: Any
) -> tuple[Target, ...]:
    """The targets of `export_many`, checked as far as possible without importing anything heavy.

    Raises:
        TimmxError: see `export_many`.
    """
    shared = _shared_options(model, output, options)
    folder = shared.output or Path()
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(
            f"--output {folder} is a file, not a folder",
            hint="name a folder for the files of all targets",
        )
    problem = why_not_in(folder)
    if problem:
        raise ConfigurationError(f"--output {folder}: {problem}", hint="choose another folder")
    targets = plan(parse_targets(to), shared, folder)
    if any(target.label.lower() == MANIFEST_NAME for target in targets):
        raise ConfigurationError(
            f"no target can be named {MANIFEST_NAME}, the name of timmx's own record",
            hint="choose another name with output=NAME",
        )
    _read_manifest(folder / MANIFEST_NAME)  # a foreign file is refused before the work, not after it
    return targets


def parse_targets(to: Sequence[str | Mapping[str, Any] | TargetOptions]) -> list[TargetOptions]:
    """Targets as `export_many` takes them; their values are not checked yet.

    Raises:
        BackendError: a backend is not installed.
        ConfigurationError: a backend has no such option, or a value has the wrong type.
    """
    return [parse_target(item) if isinstance(item, str) else _target_options(item) for item in to]


def plan_separately(
    model: Any, to: Sequence[str | Mapping[str, Any]], output: Path, **options: Any
) -> list[Target | TimmxError]:
    """For each target of `export_many` its export, or the reason why it cannot be exported.

    Raises:
        TimmxError: the options are invalid, whatever the target is.
    """
    return plan_each(parse_targets(to), _shared_options(model, output, options), output)


def _shared_options(model: Any, output: str | Path | None, options: Mapping[str, Any]) -> ExportRequest:
    reject_unknown(options, [name for name in option_specs(ExportRequest) if name != "json"], "timmx export")
    if model is None:
        raise ConfigurationError(
            "no model is given", hint="give a timm name, hf-hub:OWNER/NAME, local-dir:FOLDER or a module"
        )
    return build(ExportRequest, {"model": model, "output": output, **options})


def export_targets(
    targets: Sequence[Target], folder: Path, command: str | None = None, jobs: int | None = 1
) -> ManyResult:
    """Export the targets of `plan_exports`.

    Raises:
        TimmxError: the model cannot be loaded, or `timmx.json` cannot be written.
    """
    start = time.perf_counter()
    reporter().rows([target.label for target in targets])
    outcomes: dict[Path, ExportResult | Failure] = {}

    def ended(target: Target, outcome: ExportResult | Exception) -> None:
        if isinstance(outcome, Exception):
            outcomes[target.path] = Failure(target.label, target.backend.name, outcome)
            reporter().row_done("failed", failed=True)
            return
        outcomes[target.path] = outcome
        record_result(folder, target, outcome, command)
        reporter().row_done(f"done in {outcome.seconds['total']:.1f} s")

    jobs = check_jobs(targets, jobs)
    shared = _one_by_one(targets, ended) if jobs == 1 else export_in_parallel(targets, jobs, ended)
    in_order = [outcomes[target.path] for target in targets]
    return ManyResult(
        model=targets[0].request.source,
        folder=folder,
        results=tuple(item for item in in_order if not isinstance(item, Failure)),
        failures=tuple(item for item in in_order if isinstance(item, Failure)),
        seconds=shared.seconds | {"total": round(time.perf_counter() - start, 3)},
        jobs=shared.jobs,
        memory_bytes=shared.memory_bytes,
    )


def _one_by_one(
    targets: Sequence[Target], ended: Callable[[Target, ExportResult | Exception], None]
) -> Shared:
    """Export targets in this process."""
    with ONE_AT_A_TIME:
        from timmx.exporting.session import ModelSession

        session = ModelSession(
            replace(targets[0].request, output=None),
            calibration_data=calibration_data(target.options for target in targets),
        )
        session.prepare()
        for target in targets:
            reporter().row(target.label)
            try:
                outcome: ExportResult | Exception = export_target(session, target)
            except Exception as exc:
                outcome = exc
            ended(target, outcome)
    return Shared(seconds=session.seconds, jobs=1, memory_bytes=peak_resident_bytes())


def _target_options(item: Mapping[str, Any] | TargetOptions) -> TargetOptions:
    return item if isinstance(item, TargetOptions) else target_of(item)


def record_result(
    folder: Path,
    target: Target,
    result: ExportResult,
    command: str | None,
    *,
    exists: Callable[[str], bool] | None = None,
) -> None:
    """Add an artifact to `timmx.json`; other entries are kept if their files still exist.

    Args:
        folder: where it is.
        target: what was exported.
        result: of the export.
        command: the command line; None if it has several models.
        exists: whether a file of another entry exists, by name; by default it is looked for in the folder.
    """
    path = folder / MANIFEST_NAME
    exists = exists or (lambda name: (folder / name).exists())
    entry = {
        "backend": result.backend,
        "sha256": digest(target.backend.files(result.path)),
        "size_bytes": result.size_bytes,
        "precision": str(result.precision),
        "verification": result.verification.to_dict(),
        "notes": list(result.notes),
        "seconds": result.seconds,
        "options": {name: _json_ready(value) for name, value in target.own_options.items()},
        "model": target.request.source,
    }
    with _wait_for_staging(path) as stage:
        artifacts = _read_manifest(path).get("artifacts", {})
        existing = {name: item for name, item in artifacts.items() if exists(name)}
        manifest = {
            "schema": SCHEMA,
            "model": target.request.source,
            "command": command,
            "artifacts": dict(sorted((existing | {target.label: entry}).items())),
        }
        stage.path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        stage.publish()


def _read_manifest(path: Path) -> dict[str, Any]:
    """The content of a folder's `timmx.json`; {} if there is none.

    Raises:
        ArtifactError: another tool or a later timmx wrote that file.
    """
    if not path.exists():
        return {}
    try:
        manifest = parse_json(read_file(path, _LARGEST_MANIFEST), any_name=True)
        if not isinstance(manifest["artifacts"], dict):
            raise TypeError
    except (OSError, ValueError, TypeError, LookupError) as exc:
        raise ArtifactError(
            f"{path} is not a record that timmx export wrote",
            hint="move it, or name another folder with --output",
        ) from exc
    if manifest.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path} has schema {brief(manifest.get('schema'))}, and this timmx supports schema {SCHEMA}",
            hint="update timmx, or name another folder with --output",
        )
    return manifest


@contextmanager
def _wait_for_staging(path: Path) -> Iterator[Staging]:
    """`staging` that waits: another export to the same folder locks `timmx.json` only for a moment."""
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    with ExitStack() as stack:
        while True:
            try:
                stage = stack.enter_context(staging(path))
                break
            except ArtifactError:
                if time.monotonic() > deadline:
                    raise
        yield stage


def _json_ready(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    return value
