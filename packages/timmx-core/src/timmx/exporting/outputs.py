"""The output path of an export: the requested one, or one named after the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import is_utf8, locale_problem, printable, why_not_in
from timmx.errors import ArtifactError, ConfigurationError, PluginError
from timmx.registry import known_backends

if TYPE_CHECKING:
    from timmx.contract import ExportBackend, ExportRequest

KNOWN_SUFFIXES = {suffix for facts in known_backends().values() for suffix in facts["suffixes"]}


def output_path(backend: ExportBackend, request: ExportRequest, options: Any) -> Path:
    """The requested output path, or the model's name in the current folder.

    Raises:
        ConfigurationError: the suffix does not fit these options, or the path is not UTF-8.
        ArtifactError: the default output exists and `force` is not given, or the path is a folder of the user.
    """
    suffix = backend.output_suffix(options)
    source = backend.source_artifact(options)
    name = default_name(request) if source is None else source.stem
    output = request.output or Path(name + suffix)
    if output.is_dir() and output.suffix != suffix:
        raise ConfigurationError(
            f"--output {output} is a folder", hint=f"name a file in it, such as {output / name}{suffix}"
        )
    if output.suffix != suffix:
        stem = output.with_suffix("") if output.suffix.lower() in KNOWN_SUFFIXES else output
        raise ConfigurationError(
            f"--output {output} must end in {suffix}, which timmx {backend.name} writes with these options",
            hint=f"use --output {stem}{suffix}",
        )
    if not is_utf8(str(output)):
        name, problem = f"--output {printable(str(output))}", locale_problem(output)
        raise ConfigurationError(
            f"{name}: {problem}" if problem else f"{name} is not UTF-8, and runtimes cannot open such a path",
            hint="set LC_ALL=C.UTF-8, or PYTHONUTF8=1" if problem else "choose another --output",
        )
    problem = why_not_in(output.absolute().parent)
    if problem:
        raise ArtifactError(f"--output {output}: {problem}", hint="choose another --output")
    if request.output is None and output.exists() and not request.force:
        raise ArtifactError(
            f"{output} already exists", hint="use --force to overwrite it, or choose another --output"
        )
    if output.is_dir() and not _is_own_folder(backend, output):
        raise ArtifactError(
            f"{output} is a folder that timmx {backend.name} did not write",
            hint="choose another --output",
        )
    return output


def _is_own_folder(backend: ExportBackend, folder: Path) -> bool:
    """Whether a folder holds timmx's metadata; in doubt it belongs to the user and is kept."""
    try:
        return bool(backend.read_metadata(folder))
    except (ArtifactError, PluginError):  # a backend of files may not expect a folder
        return False


def default_name(request: ExportRequest) -> str:
    """The last part of the model's name, with its tag."""
    if request.local_dir is not None:
        return request.local_dir.resolve().name
    if isinstance(request.model, str):
        return request.model.rpartition("/")[2].rpartition(":")[2]
    config = getattr(request.model, "pretrained_cfg", None) or {}
    return config.get("architecture") or type(request.model).__name__.lower()
