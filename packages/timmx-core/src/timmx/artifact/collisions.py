"""Checks that a command's outputs do not overwrite its inputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.artifact.opening import backend_for
from timmx.base import same_file
from timmx.errors import ConfigurationError, TimmxError

if TYPE_CHECKING:
    from collections.abc import Mapping


def keep_inputs(
    outputs: Mapping[str, Path | None], inputs: Mapping[str, Any], artifacts: Mapping[str, Any]
) -> None:
    """Check that outputs are not inputs, do not lie inside an artifact that is a folder, and differ; links resolved.

    Args:
        outputs: paths by flag; None if the flag was not given.
        inputs: see `outputs`.
        artifacts: artifacts by flag; a model's name is also allowed.

    Raises:
        ConfigurationError: an output would damage one of them.
    """
    sources = [(flag, Path(value).expanduser()) for flag, value in inputs.items() if value is not None]
    for flag, value in artifacts.items():
        sources += [(flag, path) for path in _artifact_files(value)]
    targets = [(flag, path) for flag, path in outputs.items() if path is not None]
    for number, (flag, path) in enumerate(targets):
        for other_flag, other in [*sources, *targets[:number]]:
            parents = Path(os.path.realpath(path)).parents
            inside = other_flag in artifacts and Path(os.path.realpath(other)) in parents
            if inside or same_file(path, other):
                what = f"lies in {other_flag} {other}" if inside else f"is the same as {other_flag} {other}"
                raise ConfigurationError(
                    f"{flag} {path} {what}, which it would damage", hint=f"name another file for {flag}"
                )


def _artifact_files(artifact: Any) -> tuple[Path, ...]:
    """All files of an artifact; empty for anything else, such as a timm model."""
    path = Path(str(artifact)).expanduser()
    if artifact is None or not path.suffix or not path.exists():
        return ()
    try:
        return (path, *backend_for(path).files(path))
    except TimmxError:  # opening the file reports it
        return (path,)
