"""timmx takes a timm image model to the runtime that it will live in, and proves that it arrived whole.

Importing this is cheap: torch, timm and the converters are imported by what needs them.
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
    from collections.abc import Callable

    from torch import nn

    from timmx.contract import ExportBackend, Runner
    from timmx.exporting import ExportResult
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
    "open",
]


def _create_command(backend: ExportBackend) -> Callable[..., ExportResult]:
    from timmx.exporting import create_command

    return create_command(backend)


register_command_maker(_create_command)


def export(backend: str, model: str | nn.Module | None = None, **options: Any) -> ExportResult:
    """Export a model; the same as `timmx <backend> MODEL ...`, and checked the same way.

    Args:
        backend: an installed backend's name, such as `onnx` (`timmx.backends()` lists them).
        model: a timm name, `hf-hub:OWNER/NAME`, `local-dir:FOLDER`, or a module with a `pretrained_cfg`. A
            module is left as it is: mode, device and parameters. None where an option names a file in its place.
        options: the command's options with underscores, such as `output=`, `dynamic_batch=True`.

    Returns:
        The artifact's path, its verification figures and its metadata.

    Raises:
        TimmxError: one of its subclasses, with a message and a hint; the output is as it was before.
    """
    from timmx.registry import load

    return load(backend).create_command()(model=model, **options)


def backends() -> tuple[BackendEntry, ...]:
    """Every installed backend, as its metadata shows it; none is imported."""
    from timmx.registry import entries

    return entries()


def open(
    path: str | os.PathLike[str],
    *,
    device: str | None = None,
    threads: int | None = None,
) -> Runner:
    """Open an artifact in its own runtime: arrays in, arrays out.

    Args:
        path: the artifact, with a suffix of an installed backend.
        device: `cpu` or `cuda`; by default the device that it was made for.
        threads: how many CPU threads the runtime may use; by default it chooses. Formats that PyTorch runs follow
            `torch.set_num_threads` instead.

    Raises:
        ArtifactError: there is no such file, or it is not what its suffix says.
        BackendError: no installed backend opens that suffix.
        ConfigurationError: it does not run on that device, or `threads` is less than 1.
        RuntimeUnavailable: it cannot run on this machine, with the reason.
    """
    from timmx.artifact import open_artifact
    from timmx.contract import Device, OpenSettings

    if device not in (None, *Device):
        raise ConfigurationError(f"there is no device {device!r}", hint=f"use {' or '.join(Device)}")
    return open_artifact(path, OpenSettings(device=Device(device) if device else None, threads=threads))


def __getattr__(name: str) -> Any:
    if name == "__version__":
        import importlib_metadata

        return importlib_metadata.version("timmx-core")
    if name == "ExportResult":
        from timmx.exporting import ExportResult

        return ExportResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
