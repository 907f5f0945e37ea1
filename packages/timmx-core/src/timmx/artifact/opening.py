"""Finds the backend that opens a file, by its suffix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from timmx import registry
from timmx.base import check_path, is_utf8, locale_problem, printable, require_artifact
from timmx.contract import Metadata
from timmx.errors import ArtifactError, BackendError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from timmx.contract import ExportBackend, OpenSettings, Runner
    from timmx.registry import BackendEntry


def open_artifact(path: str | os.PathLike[str], settings: OpenSettings) -> Runner:
    """See `timmx.open`."""
    artifact = Path(os.fspath(path)).expanduser()
    return open_with(backend_of(artifact), artifact, settings)


def open_with(backend: ExportBackend, path: Path, settings: OpenSettings) -> Runner:
    """Open an artifact of this backend.

    Raises:
        ConfigurationError: its runtime does not compute on `settings.runtime_device`.
        TimmxError: see `timmx.open`.
    """
    wanted, devices = settings.runtime_device, backend.runtime_devices
    if wanted is not None and wanted not in devices:
        raise ConfigurationError(
            f"{path.name} cannot run with --runtime-device {wanted}: "
            + (
                f"its devices are {', '.join(devices)}"
                if devices
                else f"{backend.name} has no choice of devices"
            ),
            hint=f"use --runtime-device {devices[0]}" if devices else "leave --runtime-device out",
        )
    return backend.open(path, settings)


def read_artifact(path: Path) -> tuple[ExportBackend, Metadata]:
    """The backend of a file that timmx wrote, and its checked metadata. The file is not run.

    Raises:
        ArtifactError: the file does not exist, is damaged, or was not written by timmx.
        BackendError: no installed backend opens it.
    """
    backend = backend_of(path)
    return backend, Metadata.parse(path, backend.read_metadata(path))


def backend_of(path: Path) -> ExportBackend:
    """The installed backend of an existing file.

    Raises:
        ArtifactError: the file does not exist, is not a file or a folder of files, or its path is not UTF-8.
        BackendError: see `backend_for`.
    """
    check_path(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist", hint="check the path")
    if not is_utf8(str(path)):
        problem = locale_problem(path)
        raise ArtifactError(
            f"{printable(str(path))}: {problem or 'this path is not UTF-8, and runtimes cannot open it'}",
            hint="set LC_ALL=C.UTF-8, or PYTHONUTF8=1" if problem else "rename it",
        )
    backend = backend_for(path)
    require_artifact(path)
    return backend


def backend_for(path: Path) -> ExportBackend:
    """The installed backend that opens files with this suffix.

    Our own backends come first, by `known_backends.json`; the others are imported only if none of ours opens the
    suffix.

    Raises:
        BackendError: none does; the hint installs one of ours, or fixes the problem of an installed one.
    """
    suffix = path.suffix
    ours = {
        name: facts["distribution"]
        for name, facts in registry.known_backends().items()
        if suffix in facts["suffixes"]
    }
    for entry in registry.usable():
        if ours.get(entry.name) == entry.distribution:
            return registry.load_entry(entry)
    for entry in registry.entries():  # installed, but not usable
        if ours.get(entry.name) == entry.distribution:
            raise entry.error(entry.state, entry.reason, entry.fix)
    if ours:
        command = "uv pip install " + " ".join(sorted(ours.values()))
        raise BackendError(f"{path.name} needs a backend that is not installed", hint=command)
    for backend in _loaded(
        entry for entry in registry.usable() if entry.name not in registry.known_backends()
    ):
        if suffix in backend.suffixes:
            return backend
    if path.is_dir():
        raise BackendError(
            f"{path} is a folder, not a file", hint=f"name files in it, or compare them: timmx compare {path}"
        )
    if suffix != suffix.lower():
        raise BackendError(
            f"no installed backend opens {suffix} files, such as {path.name}: suffixes are lower-case",
            hint=f"rename it to {path.with_suffix(suffix.lower()).name}",
        )
    if (artifact := _artifact_of(path)) is not None:
        raise BackendError(f"{path.name} is a part of {artifact.name}", hint=f"name {artifact.name} instead")
    installed = ", ".join(entry.name for entry in registry.entries()) or "none"
    raise BackendError(
        f"no installed backend opens {f'{suffix} files' if suffix else 'files without a suffix'}, such as {path.name} "
        f"(installed: {installed})",
        hint="install the backend that wrote it",
    )


def _artifact_of(path: Path) -> Path | None:
    """The artifact next to one of its companions; None if there is none."""
    for backend in _loaded(registry.usable()):
        if path.suffix in backend.companions:
            for suffix in backend.suffixes:
                if (artifact := path.with_suffix(suffix)).exists():
                    return artifact
    return None


def _loaded(entries: Iterable[BackendEntry]) -> Iterator[ExportBackend]:
    """The backends that can be loaded: a broken plugin must not prevent another from being found."""
    for entry in entries:
        try:
            backend = registry.load_entry(entry)
        except BackendError:
            continue
        yield backend
