"""The JSON file of an engine. The engine itself contains only TensorRT's plan, which all of NVIDIA's runtimes read.

The JSON contains timmx's metadata and, under `engine`, what the plan was built with and where it runs.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, open_file, parse_json_object, read_file, require_file, sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.plugin import Metadata

_ENGINE = "engine"
_HEAD = 4096
_LARGEST = 16 * 10**6
"""Size of a sidecar in bytes."""


@dataclass(frozen=True)
class Sidecar:
    """The content of an engine's JSON file; both parts are empty without such a file.

    Attributes:
        metadata: timmx's metadata.
        engine: `plan_sha256`, `onnx_sha256`, `float32_nodes`, `tensorrt`, `cuda`, `driver`, `gpu`,
            `compute_capability`, `platform`, `workspace_bytes`, `opt_level`, `version_compatible`,
            `hardware_compat`, and `rebuild`, the command that builds it again.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)


def sidecar_path(path: Path) -> Path:
    """The path of an engine's sidecar: the engine's name and `.json`."""
    return path.with_name(f"{path.name}.json")


def write(path: Path, metadata: Metadata, engine: Mapping[str, Any]) -> None:
    """Write the sidecar of the engine at `path`."""
    content = {**metadata.to_json(), _ENGINE: engine}
    sidecar_path(path).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read(path: Path) -> Sidecar:
    """Read the sidecar of the engine at `path`.

    Raises:
        ArtifactError: the engine does not exist, or the sidecar is not a JSON object.
    """
    require_file(path, "an engine")
    try:
        content = parse_json_object(sidecar_path(path), read_file(sidecar_path(path), _LARGEST))
    except FileNotFoundError:
        return Sidecar()
    except OSError as exc:
        raise ArtifactError(
            f"{sidecar_path(path)} cannot be read: {exc.strerror or exc}", hint="build the engine again"
        ) from exc
    engine = content.pop(_ENGINE, {})
    return Sidecar(content, _check_facts(sidecar_path(path), engine))


_TEXT, _NUMBER = (str, type(None)), (int, float, type(None))
_FACTS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("plan_sha256", "onnx_sha256", "tensorrt", "cuda", "driver", "gpu"), _TEXT),
    **dict.fromkeys(("compute_capability", "platform", "hardware_compat", "rebuild"), _TEXT),
    **dict.fromkeys(("workspace_bytes", "opt_level"), _NUMBER),
    "float32_nodes": (list,),
    "version_compatible": (bool,),
}
"""The types of the facts about an engine; others are ignored."""


def _check_facts(path: Path, engine: Any) -> dict[str, Any]:
    if not isinstance(engine, dict):
        raise ArtifactError(f"{path} is damaged: its `{_ENGINE}` is not a JSON object", hint="copy it again")
    for key, value in engine.items():
        if not isinstance(value, _FACTS.get(key, (object,))):
            raise ArtifactError(
                f"{path} is damaged: its `{_ENGINE}.{key}` is not valid", hint="copy it again"
            )
    return {key: value for key, value in engine.items() if key in _FACTS}


def rebuild_hint(engine: Mapping[str, Any]) -> str:
    """The command that builds an engine again, from `Sidecar.engine`."""
    return engine.get("rebuild") or "timmx tensorrt, with the original model"


def check_plan(path: Path, engine: Mapping[str, Any]) -> None:
    """Refuse a file that is not the expected plan, as far as that can be seen without TensorRT.

    Args:
        engine: `Sidecar.engine`.

    Raises:
        ArtifactError: the file is empty or has another format, or is not the one that the sidecar describes.
    """
    command = rebuild_hint(engine)
    require_file(path, "an engine")
    with open_file(path) as file:
        head = file.read(_HEAD)
    if engine and sha256(path) != engine.get("plan_sha256"):
        raise ArtifactError(
            f"{path} is not the engine that {sidecar_path(path).name} describes: it was changed or replaced",
            hint=f"build it again: {command}",
        )
    if not engine and (what := _other_format(path, head)):
        raise ArtifactError(
            f"{path} is not a TensorRT engine: it is {what}", hint=f"build it again: {command}"
        )


def _other_format(path: Path, head: bytes) -> str:
    """The format of a file without a sidecar; empty if it may be a plan, which only TensorRT can check."""
    if b"\0" not in head:  # a plan begins with numbers of 32 and 64 bits
        return "a text file" if head else "empty"
    if head.startswith(b"PK"):
        return "a zip archive"
    if head[4:8] == b"TFL3":
        return "a LiteRT model"
    if head[:1] == b"\x08":  # the first field of an ONNX model
        from timmx_onnx import read_proto

        with suppress(ArtifactError):
            read_proto(path)
            return "an ONNX model"
    return ""


def concatenated_sha256(*paths: Path) -> str:
    """The SHA-256 of the concatenated files, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open_file(path) as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


_NAMES = {
    "tensorrt": "TensorRT",
    "gpu": "GPU",
    "compute_capability": "compute capability",
    "platform": "platform",
}


def differences(engine: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Why an engine may not run here: the properties that differ from those of the machine that built it.

    Args:
        engine: `Sidecar.engine`.
        here: `gpu.facts()` and `tensorrt`.
    """
    return [
        f"{name} {engine[key]}, here {here[key]}"
        for key, name in _NAMES.items()
        if key in engine and engine[key] != here[key] and not _allowed(key, engine, here)
    ]


def _allowed(key: str, engine: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether the engine was built to run in spite of this difference."""
    compat = engine.get("hardware_compat", "none")
    same_capability = engine.get("compute_capability") == here["compute_capability"]
    if key == "gpu":  # another card with the same chip may run it; a different chip differs in its capability
        return not same_capability or compat != "none"
    if key == "compute_capability":
        return compat == "ampere-plus" and float(here[key]) >= 8.0
    if key == "tensorrt":
        return bool(engine.get("version_compatible")) and _version(engine[key]) <= _version(here[key])
    return False


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdecimal())
