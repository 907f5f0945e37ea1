"""What a benchmark measures, checked before anything is opened."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.artifact import MANIFEST_NAME
from timmx.base import usable_cores
from timmx.errors import ConfigurationError, MissingRequirementError
from timmx.tools.subject import check_batch_size, refuse_model_options, request_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from timmx.contract import Metadata

_THREADS_PER_CORE = 4
"""More threads only measure the scheduler; with thousands the benchmark does not end."""
_MOST_SECONDS, _MOST_ROUNDS = 3600, 10_000


@dataclass(frozen=True)
class BenchSubject:
    """What is measured: a file, or the model.

    Attributes:
        opening: further arguments of the worker's `open`.
        batch: the fixed batch size; None if it is dynamic.
    """

    name: str
    path: Path
    batch: int | None
    opening: dict[str, Any] = field(default_factory=dict)

    @property
    def is_model(self) -> bool:
        return bool(self.opening)


def check_options(
    against: str | None,
    model_options: Mapping[str, Any] | None,
    threads: Sequence[int],
    batch_sizes: Sequence[int],
    seconds: float,
    rounds: int | None,
    compiled: bool,
) -> None:
    """Check the options, before a file is read.

    Raises:
        ConfigurationError: an option is invalid.
        MissingRequirementError: torch.compile has no C++ compiler.
    """
    if against is not None and not isinstance(against, str):
        raise ConfigurationError(
            f"against is a {type(against).__name__}, not the name of a model that another process can load",
            hint="give a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER",
        )
    if against is None:
        refuse_model_options({"compile": True} if compiled else model_options)
    for flag, values in (("threads", threads), ("batch-sizes", batch_sizes)):
        if not values or min(values) < 1:
            raise ConfigurationError(
                f"--{flag} takes integers of at least 1, not {','.join(map(str, values)) or 'nothing'}",
                hint=f"give one or more of them, as in --{flag} 1,2",
            )
    if max(threads) > _THREADS_PER_CORE * usable_cores():
        raise ConfigurationError(
            f"--threads {max(threads)} is more than {_THREADS_PER_CORE} times the {usable_cores()} cores that this "
            "process can use",
            hint=f"give at most {_THREADS_PER_CORE * usable_cores()}",
        )
    check_seconds(seconds)
    if rounds is not None and not 1 <= rounds <= _MOST_ROUNDS:
        raise ConfigurationError(
            f"--rounds {rounds} is out of range", hint=f"give an integer from 1 to {_MOST_ROUNDS}"
        )
    if compiled:
        compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        if shutil.which(compiler) is None:
            raise MissingRequirementError(
                f"--compile needs a C++ compiler, and there is no {compiler} on PATH",
                hint="install one (apt install g++, or xcode-select --install), name another in CXX, or leave "
                "--compile out",
            )


def check_seconds(seconds: float) -> None:
    """Check the time to measure a case for.

    Raises:
        ConfigurationError: it is not above 0, or is longer than an hour.
    """
    if not 0 < seconds <= _MOST_SECONDS:
        raise ConfigurationError(
            f"--seconds {seconds:g} is out of range",
            hint=f"give a number above 0 and at most {_MOST_SECONDS}, an hour for each case",
        )


def find_subjects(
    paths: Sequence[Path],
    against: str | None,
    model_options: Mapping[str, Any] | None,
    compiled: bool,
    batch_sizes: Sequence[int],
    warnings: list[str],
) -> list[BenchSubject]:
    """What to measure, the base first.

    Args:
        paths: of the files; the first one's size and normalization are also the model's.
        compiled: also measure the compiled model.
        batch_sizes: of files with a dynamic batch size.
        warnings: warnings about the comparison are appended to it.

    Raises:
        TimmxError: a file does not exist or was not written by timmx, or the model's options are invalid.
    """
    from timmx.artifact import read_artifact

    paths = [path for path in paths if path.name != MANIFEST_NAME]  # `out/*` matches it too
    if not paths:
        raise ConfigurationError(
            f"{MANIFEST_NAME} is the manifest of timmx export, not a file to measure",
            hint="name a file that timmx wrote",
        )
    metadata = [read_artifact(path)[1] for path in paths]
    first = metadata[0]
    subjects = []
    if against is not None:
        request_for(first, against, model_options)  # checks the options before anything is opened
        for compiling in (False, True) if compiled else (False,):
            opening = {
                "is_model": True,
                "against": against,
                "model_options": _plain(model_options or {}),
                "compile": compiling,
            }
            folder = against.removeprefix("local-dir:")
            shown = against if folder == against else Path(folder).name
            name = f"{shown} (torch.compile)" if compiling else f"{shown} (PyTorch)"
            subjects.append(BenchSubject(name, paths[0], None, opening))
    for name, path, own in zip(_names(paths), paths, metadata, strict=True):
        check_batch_size(own.batch_size or max(batch_sizes), own.input.size, f"{name}: the batch size")
        subjects.append(BenchSubject(name, path, own.batch_size))
        if own.input.size != first.input.size:
            warnings.append(
                f"{name} takes images of {_size(own)}, {subjects[0].name} of {_size(first)}: their latencies are not "
                "comparable."
            )
    return subjects


def _names(paths: Sequence[Path]) -> list[str]:
    """Unique names of the files: file names, or paths if two files have the same name."""
    short = [path.name for path in paths]
    names: list[str] = []
    for path in paths:
        name = path.name if short.count(path.name) == 1 else str(path)
        again = sum(path == other for other in paths[: len(names)])
        names.append(f"{name} again" + (f" ({again})" if again > 1 else "") if again else name)
    return names


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON values."""
    return {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()
    }


def _size(metadata: Metadata) -> str:
    return "x".join(map(str, metadata.input.size))
