"""Several formats of one model: one load, one preparation, one reference run, one capture for each shape policy."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.artifact import MANIFEST_NAME, digest, staging
from timmx.base import reporter, why_not_in
from timmx.contract import ExportRequest
from timmx.errors import ArtifactError, ConfigurationError, TimmxError, error_dict
from timmx.exporting.pipeline import ONE_AT_A_TIME, ExportResult, export_session
from timmx.exporting.targets import Target, Wanted, parse_target, plan, target_of
from timmx.registry import build, option_specs, reject_unknown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from timmx.artifact import Staging
    from timmx.exporting.session import ModelSession

_PATIENCE_S = 10.0

SCHEMA = 1
"""Of `timmx.json`."""


@dataclass(frozen=True)
class Failure:
    """A target that was not published; its file is as it was.

    Attributes:
        name: of its file.
        backend: that was to write it.
        error: why not.
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
        """How to fix it; empty where nobody knows."""
        return str(error_dict(self.error)["hint"])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"name": self.name, "backend": self.backend, "error": error_dict(self.error)}


@dataclass(frozen=True, kw_only=True)
class ManyResult:
    """What came of several exports.

    Attributes:
        model: as a person would name it.
        folder: where the files are.
        results: what was published, in the order that it was asked for.
        failures: what was not.
        seconds: wall time of the steps that all share, and `total`.
    """

    model: str
    folder: Path
    results: tuple[ExportResult, ...]
    failures: tuple[Failure, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def manifest(self) -> Path:
        """Where it is written down."""
        return self.folder / MANIFEST_NAME

    @property
    def exit_code(self) -> int:
        """0 where all are published, 1 where a defect kept one back, else 2."""
        if not self.failures:
            return 0
        return 2 if all(isinstance(item.error, TimmxError) for item in self.failures) else 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "model": self.model,
            "output": str(self.folder),
            "manifest": str(self.manifest) if self.results else None,
            "artifacts": [result.to_dict() for result in self.results],
            "failed": [failure.to_dict() for failure in self.failures],
            "seconds": self.seconds,
        }


def export_many(
    model: Any,
    to: Sequence[str | Mapping[str, Any]],
    output: str | Path | None = None,
    *,
    command: str | None = None,
    **options: Any,
) -> ManyResult:
    """Export a model to several formats, each as its own backend's command would.

    Args:
        model: a timm name, `hf-hub:OWNER/NAME`, `local-dir:FOLDER`, or a module with a `pretrained_cfg`.
        to: the targets: `"NAME"`, `"NAME:KEY=VALUE,..."`, or a mapping with `format` and options.
        output: the folder; files in it are replaced after success. By default the current one, where nothing is
            overwritten unless `force` is given.
        command: what was typed, to be kept in `timmx.json`.
        options: the shared options of every export, with underscores. They go for all targets.

    Returns:
        What was published and what was not: one that fails does not stop the others.

    Raises:
        TimmxError: an option, a target or the model cannot be; then nothing was exported.
    """
    targets = planned(model, to, output, **options)
    folder = Path(output).expanduser() if output is not None else Path()
    return export_targets(targets, folder, command)


def planned(
    model: Any, to: Sequence[str | Mapping[str, Any]], output: str | Path | None, **options: Any
) -> tuple[Target, ...]:
    """What `export_many` would do, checked as far as it can be without importing anything heavy.

    Raises:
        TimmxError: see `export_many`.
    """
    reject_unknown(options, [name for name in option_specs(ExportRequest) if name != "json"], "timmx export")
    if model is None:
        raise ConfigurationError(
            "no model is given", hint="give a timm name, hf-hub:OWNER/NAME, local-dir:FOLDER or a module"
        )
    shared = build(ExportRequest, {"model": model, "output": output, **options})
    folder = shared.output or Path()
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(
            f"--output {folder} is a file, not a folder",
            hint="name a folder, into which all targets are written",
        )
    trouble = why_not_in(folder)
    if trouble:
        raise ConfigurationError(f"--output {folder}: {trouble}", hint="choose another folder")
    wanted = [parse_target(item) if isinstance(item, str) else _wanted(item) for item in to]
    targets = plan(wanted, shared, folder)
    if any(target.label.lower() == MANIFEST_NAME for target in targets):
        raise ConfigurationError(
            f"no target can be named {MANIFEST_NAME}, the name of timmx's own record",
            hint="choose another name with output=NAME",
        )
    _read_manifest(
        folder / MANIFEST_NAME
    )  # what is no record of ours is refused before the work, not after it
    return targets


def export_targets(targets: Sequence[Target], folder: Path, command: str | None = None) -> ManyResult:
    """Make what `planned` returned.

    Raises:
        TimmxError: the model cannot be loaded; or `timmx.json` cannot be written.
    """
    start = time.perf_counter()
    to = reporter()
    to.rows([target.label for target in targets])
    results: list[ExportResult] = []
    failures: list[Failure] = []
    with ONE_AT_A_TIME:
        from timmx.exporting.session import ModelSession

        session = ModelSession(replace(targets[0].request, output=None))
        session.prepare()
        for target in targets:
            to.row(target.label)
            try:
                result = _export(session, target)
            except Exception as exc:
                failures.append(Failure(target.label, target.backend.name, exc))
                to.row_done("failed", failed=True)
                continue
            results.append(result)
            _write_down(folder, target, result, command)
            to.row_done(f"done in {result.seconds['total']:.1f} s")
    seconds = session.seconds | {"total": round(time.perf_counter() - start, 3)}
    return ManyResult(
        model=targets[0].request.source,
        folder=folder,
        results=tuple(results),
        failures=tuple(failures),
        seconds=seconds,
    )


def _wanted(item: Mapping[str, Any] | Wanted) -> Wanted:
    return item if isinstance(item, Wanted) else target_of(item)


def _export(session: ModelSession, target: Target) -> ExportResult:
    start = time.perf_counter()
    with staging(target.path) as stage:
        view = session.with_batch(target.request)
        result = export_session(target.backend, view, target.options, stage)
    result.seconds["total"] = round(time.perf_counter() - start, 3)
    return result


def _write_down(folder: Path, target: Target, result: ExportResult, command: str | None) -> None:
    """Add an artifact to `timmx.json`; what else is in it stays, as long as its file does."""
    path = folder / MANIFEST_NAME
    entry = {
        "backend": result.backend,
        "sha256": digest(target.backend.files(result.path)),
        "size_bytes": result.size_bytes,
        "precision": str(result.precision),
        "verification": result.verification.to_dict(),
        "notes": list(result.notes),
        "seconds": result.seconds,
        "options": {name: _json_ready(value) for name, value in target.given.items()},
        "model": target.request.source,
    }
    with _alone(path) as stage:
        found = _read_manifest(path)
        kept = {name: item for name, item in found.get("artifacts", {}).items() if (folder / name).exists()}
        manifest = {
            "schema": SCHEMA,
            "model": target.request.source,
            "command": command,
            "artifacts": dict(sorted((kept | {target.label: entry}).items())),
        }
        stage.path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        stage.publish()


def _read_manifest(path: Path) -> dict[str, Any]:
    """What is written down in a folder, {} where nothing is.

    Raises:
        ArtifactError: another tool or a later timmx wrote that file.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
        artifacts = found["artifacts"]
        if not isinstance(artifacts, dict):
            raise TypeError
    except (OSError, ValueError, TypeError, LookupError) as exc:
        raise ArtifactError(
            f"{path} is not a record that timmx export wrote",
            hint="move it, or name another folder with --output",
        ) from exc
    if found.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path} has schema {found.get('schema')!r}, and this timmx supports schema {SCHEMA}",
            hint="update timmx, or name another folder with --output",
        )
    return found


@contextmanager
def _alone(path: Path) -> Iterator[Staging]:
    """`staging`, with patience: another export into the same folder holds the record for a moment only."""
    deadline = time.monotonic() + _PATIENCE_S
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
