"""Writes the project of a new backend, ready to test, from the templates in `templates/backend`."""

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


_SUFFIX = re.compile(r"\.[a-z0-9][a-z0-9_-]*")
_TITLE = re.compile(r"[^\W_][\w .+-]{0,39}")


def command_name(title: str) -> str:
    """The name of the command for a format's name: `tensorrt` for `TensorRT`.

    Raises:
        ConfigurationError: there is no title.
    """
    if not title:
        raise ConfigurationError(
            "the new backend has no name", hint="give NAME, such as timmx new-backend my-format, or --name"
        )
    return _hyphenated(title)


@dataclass(frozen=True, kw_only=True)
class NewBackend:
    """The settings of a new backend's project.

    Attributes:
        name: the name of the command and the backend.
        title: the format's name in help, class names and README; empty to use `name`.
        suffix: of its files; empty to derive it from `name`.
        companions: suffixes of further files next to each artifact, with the same stem.

    Raises:
        ConfigurationError: the name is invalid or in use, or a suffix or the title is invalid.
    """

    name: str
    title: str = ""
    suffix: str = ""
    companions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if refusal := _refusal(self.name):
            reason, hint = refusal
            raise ConfigurationError(f"a new backend cannot be called {self.name}: {reason}", hint=hint)
        if self.title and not _TITLE.fullmatch(self.title):
            raise ConfigurationError(
                f"--name {self.title!r} is invalid: a name has up to 40 letters, digits, spaces, dots, + and -",
                hint="use the format's usual spelling, such as --name OpenVINO",
            )
        for flag, suffix in (("--suffix", self.suffix), *(("--companion", item) for item in self.companions)):
            if suffix and not _SUFFIX.fullmatch(suffix):
                raise ConfigurationError(
                    f"{flag} {suffix!r} is invalid: a suffix is a dot and lower-case letters or digits",
                    hint=f"write it as {flag} .pdmodel",
                )
        if self.suffix in _our_suffixes():
            raise ConfigurationError(
                f"--suffix {self.suffix} is already used by one of timmx's own backends",
                hint="choose another suffix",
            )
        all_suffixes = (self.artifact_suffix, *self.companions)
        if len(set(all_suffixes)) < len(all_suffixes):
            raise ConfigurationError(
                f"the suffixes {', '.join(all_suffixes)} are not unique",
                hint="use a different suffix for the artifact and for each --companion",
            )

    @property
    def artifact_suffix(self) -> str:
        """The suffix of its files."""
        if self.suffix:
            return self.suffix
        return f".{self.name}" if f".{self.name}" not in _our_suffixes() else f".timmx-{self.name}"


@dataclass(frozen=True)
class Project:
    """A new project on disk.

    Attributes:
        name: of the backend and its command.
        folder: of the project.
        files: all files, relative to `folder`.
    """

    name: str
    folder: Path
    files: tuple[str, ...]

    @property
    def next_commands(self) -> tuple[str, ...]:
        """The commands to run next, from the current folder."""
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


def write_project(new: NewBackend, folder: Path) -> Project:
    """Write the project of a backend into a folder that is empty or does not exist.

    Raises:
        ArtifactError: the folder is not empty or cannot be written; nothing is left in it.
    """
    folder = folder.expanduser()
    values = _values(new)
    files = {}
    for path, text in _templates(resources.files("timmx.cli").joinpath("templates", "backend")):
        filled = Template(text).substitute(values).rstrip()  # a placeholder at the end may be empty
        files[path.replace("PACKAGE", values["package"])] = f"{filled}\n" if filled else ""
    _write(folder, files)
    return Project(new.name, folder, tuple(files))


def _refusal(name: str) -> tuple[str, str] | None:
    """Why a new backend cannot have this name, and a hint; None if it can."""
    if trouble := registry.name_trouble(name):
        similar = _hyphenated(name)
        hint = f"try {similar}" if similar != name and not _refusal(similar) else "choose another name"
        return trouble.rstrip("."), hint
    owners = {entry.name: f"{entry.distribution} {entry.version}" for entry in registry.entries()}
    owners |= {known: facts["distribution"] for known, facts in registry.known_backends().items()}
    if name in owners:
        return f"{owners[name]} has a backend of that name", "choose another name"
    distribution = _distribution(name)
    with contextlib.suppress(importlib_metadata.PackageNotFoundError):
        importlib_metadata.distribution(distribution)
        return f"its distribution would be {distribution}, which is installed already", "choose another name"
    return None


def _hyphenated(text: str) -> str:
    """The words of a text as a command is written: `my-format` for `My Format`."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def _our_suffixes() -> set[str]:
    return {suffix for facts in registry.known_backends().values() for suffix in facts["suffixes"]}


def _values(new: NewBackend) -> dict[str, str]:
    """The values of the templates' placeholders."""
    name = new.name
    package = _distribution(name).replace("-", "_")
    stem = "".join(word.capitalize() for word in name.split("-"))
    titled = "".join(word[:1].upper() + word[1:] for word in re.findall(r"[^\W_]+", new.title))
    if titled.isidentifier():  # unless it starts with a digit
        stem = titled
    return {
        "name": name,
        "title": new.title or name,
        "distribution": _distribution(name),
        "package": package,
        "stem": stem,
        "backend": f"{stem}Backend",
        "options": f"{stem}Options",
        "runner": f"{stem}Runner",
        "suffix": new.artifact_suffix,
        **_companion_values(new.companions, package),
        "core_range": _core_range(importlib_metadata.version("timmx-core")),
        "core_source": _core_source(),
    }


def _companion_values(suffixes: tuple[str, ...], package: str) -> dict[str, str]:
    """The extra code of a project with companions; empty texts if there are none."""
    if not suffixes:
        return dict.fromkeys(_COMPANION_CODE, "") | {"import_archive": "ArtifactError, parse_json_object"}
    listed = ", ".join(json.dumps(suffix) for suffix in suffixes) + ("," if len(suffixes) == 1 else "")
    values = {
        key: Template(text).substitute(package=package, suffixes=f"({listed})")
        for key, text in _COMPANION_CODE.items()
    }
    shown = " and ".join(f"a `{suffix}` file" for suffix in suffixes)
    return values | {"with_companions": f" with {shown} next to it"}


_COMPANION_CODE = {
    "with_companions": "",
    "import_archive": """(
    ArtifactError,
    Metadata,
    check_companion,
    parse_json_object,
)""",
    "import_companions_last": ", companions",
    "import_sha256": ", sha256",
    "or_companion": """, or
            a file next to it is not its own""",
    "check_companions": """
    if content:
        hashes = Metadata.parse(path, content).format.get("companions", {})
        for companion in companions(path):
            check_companion(path, companion, hashes.get(companion.suffix, ""))""",
    "companions_function": '''


def companions(path: Path) -> tuple[Path, ...]:
    """The files next to the artifact at `path` that belong to it."""
    return tuple(path.with_suffix(suffix) for suffix in $suffixes)''',
    "write_companions": """
    # Replace this: the content of the files next to `job.path`. They have its stem.
    for companion in companions(job.path):
        companion.write_bytes(b"Replace this")
    # `read_metadata` compares these, so that files of two exports are never mixed.
    hashes = {item.suffix: sha256(item) for item in companions(job.path)}
    facts |= {"companions": hashes}""",
    "companions_attribute": """
    companions = $suffixes""",
}


def _distribution(name: str) -> str:
    return f"timmx-{name}"


def _core_range(version: str) -> str:
    """The compatible releases of the core: the same major version, or below 1.0 the same minor version."""
    from packaging.version import Version

    core = Version(version)
    least = version if core.is_prerelease else f"{core.major}.{core.minor}"
    return f">={least},<{core.major + 1}" if core.major else f">={least},<0.{core.minor + 1}"


def _core_source() -> str:
    """The `[tool.uv.sources]` entry of the core if it was installed from a local path, else empty."""
    origin = json.loads(importlib_metadata.distribution("timmx-core").read_text("direct_url.json") or "{}")
    if not origin.get("url", "").startswith("file:"):
        return ""
    path = json.dumps(url2pathname(urlsplit(origin["url"]).path), ensure_ascii=False)
    editable = ", editable = true" if origin.get("dir_info", {}).get("editable") else ""
    return (
        "\n# The core that wrote this project is a local checkout. Remove this before you publish.\n"
        f"[tool.uv.sources]\ntimmx-core = {{ path = {path}{editable} }}"
    )


def _templates(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Path and text of every template below a folder, without `.template`, which keeps linters away from it."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _templates(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".template"):
            yield prefix + item.name.removesuffix(".template"), item.read_text("utf-8")


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write new files and their folders; after a failure or Ctrl-C, remove them again.

    Raises:
        ArtifactError: the folder is not empty or cannot be written to.
    """
    created: list[Path] = []
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ArtifactError(
                f"{folder} exists and is not an empty folder", hint="name another folder with --dir"
            )
        for name, text in files.items():
            path = folder / name
            for parent in reversed([parent for parent in path.parents if not parent.exists()]):
                parent.mkdir()
                created.append(parent)
            with path.open("x", encoding="utf-8", newline="\n") as file:
                created.append(path)
                file.write(text)
    except BaseException as exc:
        for path in reversed(created):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        if isinstance(exc, OSError):
            raise ArtifactError(
                f"cannot write {exc.filename or folder}: {exc.strerror}",
                hint="name another folder with --dir",
            ) from exc
        raise
