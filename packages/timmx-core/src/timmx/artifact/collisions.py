"""Outputs of a command that would overwrite what it reads."""

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
    """Refuse outputs that are inputs, lie inside an artifact that is a folder, or are one another; links or not.

    Args:
        outputs: paths by flag; None where the flag was not given.
        inputs: likewise.
        artifacts: artifacts by flag; a model's name may stand for one.

    Raises:
        ConfigurationError: one of them would be damaged.
    """
    read = [(flag, Path(value).expanduser()) for flag, value in inputs.items() if value is not None]
    for flag, value in artifacts.items():
        read += [(flag, path) for path in _artifact_files(value)]
    written = [(flag, path) for flag, path in outputs.items() if path is not None]
    for number, (flag, path) in enumerate(written):
        for other, place in [*read, *written[:number]]:
            inside = (
                other in artifacts and Path(os.path.realpath(place)) in Path(os.path.realpath(path)).parents
            )
            if inside or same_file(path, place):
                what = f"lies in {other} {place}" if inside else f"is the same as {other} {place}"
                raise ConfigurationError(
                    f"{flag} {path} {what}, which it would damage", hint=f"name another file for {flag}"
                )


def _artifact_files(artifact: Any) -> tuple[Path, ...]:
    """All files of an artifact; none for something else, such as a model of timm."""
    path = Path(str(artifact)).expanduser()
    if artifact is None or not path.suffix or not path.exists():
        return ()
    try:
        return (path, *backend_for(path).files(path))
    except TimmxError:  # opening the file reports it
        return (path,)
