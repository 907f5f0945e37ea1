"""The JSON beside an engine: the engine itself is nothing but TensorRT's plan, which every runtime of NVIDIA's reads.

It holds timmx's metadata, and under `engine` what the plan was built with, and where it runs.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, parse_json_object, require_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx.plugin import Metadata

_ENGINE = "engine"
_HEAD = 4096


@dataclass(frozen=True)
class Sidecar:
    """What lies beside an engine; both are empty where nothing does.

    Attributes:
        metadata: timmx's.
        engine: `plan_sha256`, `onnx_sha256`, `float32_nodes`, `tensorrt`, `cuda`, `driver`, `gpu`,
            `compute_capability`, `platform`, `workspace_bytes`, `opt_level`, `version_compatible`,
            `hardware_compat`, and `rebuild`, the command that builds it anew.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)


def beside(path: Path) -> Path:
    """The sidecar's place: the engine's name and `.json`."""
    return path.with_name(f"{path.name}.json")


def write(path: Path, metadata: Metadata, engine: Mapping[str, Any]) -> None:
    """Write the sidecar of the engine at `path`."""
    content = {**metadata.to_json(), _ENGINE: engine}
    beside(path).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read(path: Path) -> Sidecar:
    """What is said of the engine at `path`.

    Raises:
        ArtifactError: there is no engine, or what lies beside it is no JSON object.
    """
    require_file(path, "an engine")
    try:
        content = parse_json_object(beside(path), beside(path).read_bytes())
    except FileNotFoundError:
        return Sidecar()
    return Sidecar({key: value for key, value in content.items() if key != _ENGINE}, content.get(_ENGINE, {}))


def how_to_rebuild(built: Mapping[str, Any]) -> str:
    """The command that builds an engine anew, of `Sidecar.engine`."""
    return built.get("rebuild") or "timmx tensorrt, with the model that it was made from"


def check_plan(path: Path, built: Mapping[str, Any]) -> None:
    """Refuse a file that is not the plan that it should be, as far as that is seen without TensorRT.

    Args:
        built: `Sidecar.engine` of what lies beside it.

    Raises:
        ArtifactError: it is empty or a text, or not what the sidecar is about.
    """
    again = how_to_rebuild(built)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if built and sha256(path) != built.get("plan_sha256"):
        raise ArtifactError(
            f"{path} is not the engine that {beside(path).name} describes: it was changed or replaced",
            hint=f"build it again: {again}",
        )
    if not built and (what := _something_else(path, head)):
        raise ArtifactError(f"{path} is not a TensorRT engine: it is {what}", hint=f"build it again: {again}")


def _something_else(path: Path, head: bytes) -> str:
    """What a file without a sidecar surely is; empty where it may be a plan, which TensorRT alone can tell."""
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


def sha256(*paths: Path) -> str:
    """Of the bytes of these files, one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while part := file.read(2**20):
                digest.update(part)
    return digest.hexdigest()


_NAMES = {
    "tensorrt": "TensorRT",
    "gpu": "GPU",
    "compute_capability": "compute capability",
    "platform": "platform",
}


def differences(built: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Why an engine may not run here: what it depends on, and is another than where it was built.

    Args:
        built: `Sidecar.engine`.
        here: `gpu.facts()` and `tensorrt`.
    """
    found = []
    for key, name in _NAMES.items():
        if key not in built or built[key] == here[key] or _allowed(key, built, here):
            continue
        found.append(f"{name} {built[key]}, here {here[key]}")
    return found


def _allowed(key: str, built: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether the engine was built to stand this difference."""
    compat = built.get("hardware_compat", "none")
    same_capability = built.get("compute_capability") == here["compute_capability"]
    if key == "gpu":  # another card of the same chip may run it, and is named by its capability where not
        return not same_capability or compat != "none"
    if key == "compute_capability":
        return compat == "ampere-plus" and float(here[key]) >= 8.0
    if key == "tensorrt":
        return bool(built.get("version_compatible")) and _version(built[key]) <= _version(here[key])
    return False


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdecimal())
