"""Reads the data of ExecuTorch's Core ML delegate: the files of a folder, then their tree as reversed JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER, MODEL, FACTS = "lowered_module", "model.mlpackage", "metadata.json"
"""What the delegate packs: a folder with the model, and the names of its inputs and outputs."""

_LARGEST_TREE = 16 * 2**20
_FILE = 0


def unpack(path: Path, content: bytes, folder: Path) -> None:
    """Write the files into an empty folder; names that would leave it are refused.

    ExecuTorch's own `unflatten_directory_contents` takes the names as they are.

    Args:
        path: the program, for messages.
        content: the delegate's data.

    Raises:
        ArtifactError: the data is damaged.
    """
    try:
        text = content[: -_LARGEST_TREE - 1 : -1].decode(errors="replace")
        nodes = json.JSONDecoder().raw_decode(text)[0]["nodes"]
        for name, (offset, size) in _files(nodes, len(nodes) - 1, ""):
            data = content[offset : offset + size]
            if len(data) != size or offset < 0:
                raise ValueError(f"{name} has {len(data)} of {size} bytes")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise ArtifactError(f"the Core ML model in {path} is damaged: {exc}", hint="export it again") from exc


def _files(nodes: list[dict[str, Any]], number: int, prefix: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Path, and offset and size in bytes, of each file below a node; children come before their folder."""
    node = nodes[number]
    name = str(node["name"])
    if not name or name.startswith(".") or set(name) & set("/\\\0:"):
        raise ValueError(f"a file called {name!r}")
    if node["kind"] == _FILE:
        region = node["dataRegion"]
        yield f"{prefix}{name}", (int(region["offset"]), int(region["size"]))
    for child in node["children"].values():
        if not 0 <= child < number:
            raise ValueError("a folder in itself")
        yield from _files(nodes, child, f"{prefix}{name}/")
