"""timmx exports timm image models to deployment formats, and verifies each exported file against its model.

Importing this is cheap: torch, timm and the converters are imported when they are needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx.contract import register_command_maker
from timmx.errors import (
    ArtifactError,
    BackendError,
    ConfigurationError,
    MissingRequirementError,
    ModelError,
    RuntimeUnavailable,
    TimmxError,
    UnsupportedError,
    VerificationError,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from timmx.contract import ExportBackend, Runner
    from timmx.exporting import ExportResult, ManyResult
    from timmx.registry import BackendEntry

__all__ = [
    "ArtifactError",
    "BackendError",
    "ConfigurationError",
    "MissingRequirementError",
    "ModelError",
    "RuntimeUnavailable",
    "TimmxError",
    "UnsupportedError",
    "VerificationError",
    "backends",
    "export",
    "export_many",
    "open",
]


def _create_command(backend: ExportBackend) -> Callable[..., ExportResult]:
    from timmx.exporting import create_command

    return create_command(backend)


register_command_maker(_create_command)


def export(backend: str, model: str | nn.Module | None = None, **options: Any) -> ExportResult:
    """Export a model, as `timmx <backend> MODEL ...` does.

    Args:
        backend: an installed backend's name, such as `onnx` (`timmx.backends()` lists them).
        model: a timm name, `hf-hub:OWNER/NAME`, `local-dir:FOLDER`, or a module with a `pretrained_cfg`. A
            module is not changed: mode, device and parameters stay. None if an option names a file instead.
        options: the command's options with underscores, such as `output=` or `dynamic_batch=True`.

    Returns:
        The artifact's path, its verification figures and its metadata.

    Raises:
        TimmxError: one of its subclasses, with a message and a hint; an existing output file is unchanged.
    """
    from timmx.registry import load

    return load(backend).create_command()(model=model, **options)


def export_many(
    model: str | nn.Module,
    to: Sequence[str | Mapping[str, Any]],
    output: str | Path | None = None,
    *,
    jobs: int | None = 1,
    **options: Any,
) -> ManyResult:
    """Export a model to several formats from one load; the same as `timmx export MODEL --to ...`.

    Args:
        model: see `export`.
        to: the targets: `"NAME"`, `"NAME:KEY=VALUE,..."`, or a mapping with `format` and options.
        output: the folder; files in it are replaced only on success. Default: the current folder, where existing
            files are kept unless `force` is given.
        jobs: number of formats to export at once, in child processes; 1 for this process, None for as many as cores
            and memory allow. With more than 1, a script needs `if __name__ == "__main__":` around its own code.
        options: the shared options of every export, with underscores.

    Returns:
        What was published and what failed: one failure does not stop the others.

    Raises:
        TimmxError: an option, a target or the model is invalid; then nothing was exported.
    """
    from timmx.exporting import export_many

    return export_many(model, to, output, jobs=jobs, **options)


def backends() -> tuple[BackendEntry, ...]:
    """Every installed backend, described by its package metadata; none is imported."""
    from timmx.registry import entries

    return entries()


def open(
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    threads: int | None = None,
    trust: bool = False,
    runtime_device: str | None = None,
) -> Runner:
    """Open an artifact in its own runtime: arrays in, arrays out.

    Args:
        path: the artifact, with a suffix of an installed backend.
        device: `cpu` or `cuda`. Default: the device that the artifact was exported for.
        threads: number of CPU threads that the runtime may use. Default: the runtime chooses. Formats that PyTorch
            runs use `torch.set_num_threads` instead.
        trust: load the file even if loading it can run code that it contains. Only for files whose origin you trust.
        runtime_device: `cpu`, `gpu`, `npu` or `auto`: where the runtime computes, if its format has a choice, such as
            OpenVINO. Default: the CPU.

    Raises:
        ArtifactError: the file does not exist, its content does not match its suffix, or it can run code and is not
            trusted.
        BackendError: no installed backend opens that suffix.
        ConfigurationError: the artifact does not run on that device, its runtime does not compute on
            `runtime_device`, or `threads` is less than 1.
        RuntimeUnavailable: it cannot run on this machine, with the reason.
    """
    from timmx.artifact import open_artifact
    from timmx.contract import Device, OpenSettings, RuntimeDevice

    for value, known in ((device, Device), (runtime_device, RuntimeDevice)):
        if value not in (None, *known):
            raise ConfigurationError(f"unknown device {value!r}", hint=f"use {' or '.join(known)}")
    settings = OpenSettings(
        trust=trust,
        device=Device(device) if device else None,
        threads=threads,
        runtime_device=RuntimeDevice(runtime_device) if runtime_device else None,
    )
    return open_artifact(path, settings)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        import importlib_metadata

        return importlib_metadata.version("timmx-core")
    if name == "ExportResult":
        from timmx.exporting import ExportResult

        return ExportResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
