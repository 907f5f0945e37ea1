"""The state of this installation: versions, backends, and distributions that conflict with timmx."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import Any

import importlib_metadata
from packaging.utils import canonicalize_name

from timmx.contract import Problem
from timmx.registry.discovery import BackendEntry, State
from timmx.registry.distributions import UNREADABLE, entry_points
from timmx.registry.probe import probe_backends

_CORE = "timmx-core"
_HARMLESS = (State.AVAILABLE, State.DISABLED)


@dataclass(frozen=True)
class Diagnosis:
    """The report of `timmx doctor`.

    Attributes:
        versions: of Python, timmx and the libraries that every backend uses.
        backends: each with its state after loading.
        problems: each with its fix.
    """

    versions: dict[str, str]
    backends: tuple[BackendEntry, ...]
    problems: tuple[Problem, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def examine() -> Diagnosis:
    """Check versions, backends and conflicts; nothing heavy is imported into this process."""
    backends = tuple(probe_backends())
    problems = [
        Problem(
            f"{'backend' if entry.name else 'distribution'} {entry.selector} is {entry.state}: "
            f"{entry.reason.rstrip('.')}",
            entry.fix,
        )
        for entry in backends
        if entry.state not in _HARMLESS
    ]
    return Diagnosis(_versions(), backends, (*rivals(), *problems))


def rivals() -> list[Problem]:
    """Other distributions that own the import package `timmx` or the command `timmx`.

    One on the package index does. Installed together, they overwrite each other's files, and the result depends on
    the order of installation.
    """
    problems = []
    for distribution in importlib_metadata.distributions():
        try:
            name = canonicalize_name(distribution.metadata["Name"] or "unknown")
            scripts = entry_points(distribution).select(group="console_scripts", name="timmx")
            files = distribution.files or ()
        except UNREADABLE:  # `unreadable` reports it
            continue
        owns = [f"the command {script.name}" for script in scripts]
        if any(file.parts[0] == "timmx" for file in files):
            owns.append("the import package timmx")
        if owns and name != _CORE:
            problems.append(
                Problem(
                    f"the distribution {name} {distribution.version} owns {' and '.join(owns)} too",
                    f"uv pip uninstall {name} && uv pip install --reinstall {_CORE}",
                )
            )
    return problems


def _versions() -> dict[str, str]:
    versions = {"python": f"{platform.python_version()} ({platform.platform()})"}
    for name in (_CORE, "torch", "timm", "torchvision", "numpy"):
        try:
            versions[name] = importlib_metadata.version(name)
        except importlib_metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
