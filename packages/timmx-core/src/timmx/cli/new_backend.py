"""Writes the project of a new backend, ready to test; its files are the templates in `templates/backend`."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import importlib_metadata

from timmx import registry
from timmx.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable
    from pathlib import Path


@dataclass(frozen=True)
class Project:
    """A project that was written.

    Attributes:
        name: the backend's, which is its command.
        folder: where it lies.
        files: what was written there, relative to `folder`.
    """

    name: str
    folder: Path
    files: tuple[str, ...]

    @property
    def next_commands(self) -> tuple[str, ...]:
        """What to type now, from where the project was made."""
        return (
            f"cd {shlex.quote(str(self.folder))}",
            "uv sync",
            "uv run pytest",
            f"uv run timmx {self.name} resnet18 --pretrained",
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "distribution": _distribution(self.name),
            "path": str(self.folder),
            "files": list(self.files),
            "next": list(self.next_commands),
        }


def write_project(name: str, folder: Path) -> Project:
    """Write the project of a backend called `name` into a folder that is empty or not there yet.

    Raises:
        ConfigurationError: nobody may have that name, or somebody has it already.
        ArtifactError: the folder is not empty or cannot be written; nothing is left in it.
    """
    if refusal := _refusal(name):
        reason, hint = refusal
        raise ConfigurationError(f"a new backend cannot be called {name}: {reason}", hint=hint)
    folder = folder.expanduser()
    values = _values(name)
    files = {}
    for path, text in _templates(resources.files("timmx.cli").joinpath("templates", "backend")):
        filled = Template(text).substitute(values).rstrip()  # a placeholder at the end may stand for nothing
        files[path.replace("PACKAGE", values["package"])] = f"{filled}\n" if filled else ""
    _write(folder, files)
    return Project(name, folder, tuple(files))


def _refusal(name: str) -> tuple[str, str] | None:
    """Why a new backend may not be called so, and a hint; None where it may."""
    if trouble := registry.name_trouble(name):
        likely = "-".join(re.findall(r"[a-z0-9]+", name.lower()))
        better = f"try {likely}" if likely != name and not _refusal(likely) else "choose another name"
        return trouble.rstrip("."), better
    owners = {entry.name: f"{entry.distribution} {entry.version}" for entry in registry.entries()}
    owners |= {known: facts["distribution"] for known, facts in registry.known_backends().items()}
    if name in owners:
        return f"{owners[name]} has a backend of that name", "choose another name"
    distribution = _distribution(name)
    with contextlib.suppress(importlib_metadata.PackageNotFoundError):
        importlib_metadata.distribution(distribution)
        return f"its distribution would be {distribution}, which is installed already", "choose another name"
    return None


def _values(name: str) -> dict[str, str]:
    """What the templates' placeholders stand for."""
    stem = "".join(word.capitalize() for word in name.split("-"))
    taken = {suffix for facts in registry.known_backends().values() for suffix in facts["suffixes"]}
    return {
        "name": name,
        "distribution": _distribution(name),
        "package": _distribution(name).replace("-", "_"),
        "stem": stem,
        "backend": f"{stem}Backend",
        "options": f"{stem}Options",
        "runner": f"{stem}Runner",
        "suffix": f".{name}" if f".{name}" not in taken else f".timmx-{name}",
        "core_range": _core_range(importlib_metadata.version("timmx-core")),
        "core_source": _core_source(),
    }


def _distribution(name: str) -> str:
    return f"timmx-{name}"


def _core_range(version: str) -> str:
    """The releases of the core that keep to this one's contract: the same major, or below 1.0 the same minor."""
    from packaging.version import Version

    core = Version(version)
    least = version if core.is_prerelease else f"{core.major}.{core.minor}"
    return f">={least},<{core.major + 1}" if core.major else f">={least},<0.{core.minor + 1}"


def _core_source() -> str:
    """For uv: where the core came from, if that is a place on this machine and no package index."""
    origin = json.loads(importlib_metadata.distribution("timmx-core").read_text("direct_url.json") or "{}")
    if not origin.get("url", "").startswith("file:"):
        return ""
    path = json.dumps(url2pathname(urlsplit(origin["url"]).path), ensure_ascii=False)
    editable = ", editable = true" if origin.get("dir_info", {}).get("editable") else ""
    return (
        "\n# The core that made this project lies on this machine. Leave this out before you publish.\n"
        f"[tool.uv.sources]\ntimmx-core = {{ path = {path}{editable} }}"
    )


def _templates(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Path and text of every template below a folder, without the suffix that keeps tools from reading it as code."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _templates(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".template"):
            yield prefix + item.name.removesuffix(".template"), item.read_text("utf-8")


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write new files and the folders that they need; after a failure or Ctrl-C none of them is left.

    Raises:
        ArtifactError: the folder is not empty, or the file system refuses.
    """
    made: list[Path] = []
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ArtifactError(
                f"{folder} exists and is not an empty folder", hint="name another folder with --dir"
            )
        for name, text in files.items():
            path = folder / name
            for parent in reversed([parent for parent in path.parents if not parent.exists()]):
                parent.mkdir()
                made.append(parent)
            with path.open("x", encoding="utf-8", newline="\n") as file:
                made.append(path)
                file.write(text)
    except BaseException as exc:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        if isinstance(exc, OSError):
            raise ArtifactError(
                f"cannot write {exc.filename or folder}: {exc.strerror}",
                hint="name another folder with --dir",
            ) from exc
        raise
