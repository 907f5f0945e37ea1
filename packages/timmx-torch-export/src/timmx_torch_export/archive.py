"""A `.pt2` file as the zip archive that it is: read without torch."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, Any

from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

METADATA_NAME = "timmx.json"
"""The key in `torch.export.load`'s `extra_files`."""


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata inside a `.pt2` file, {} where timmx did not write it.

    Raises:
        ArtifactError: the file is no `.pt2`, or is damaged.
    """
    content = _read(path, f"/extra/{METADATA_NAME}")
    return {} if content is None else content


def inspect(path: Path) -> dict[str, Any]:
    """Operations by ATen name.

    Raises:
        ArtifactError: the file is no `.pt2`, or is damaged.
    """
    model = _read(path, "/models/model.json")
    nodes = model["graph_module"]["graph"]["nodes"] if model else []
    operations = Counter(node["target"].removeprefix("torch.ops.") for node in nodes)
    return {"operations": dict(sorted(operations.items()))}


def _read(path: Path, end: str) -> Any:
    """The JSON of the entry whose name ends so, None where there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/archive_format") for name in names):
                raise ArtifactError(f"{path} is a zip archive, but no .pt2 of torch.export.")
            found = [name for name in names if name.endswith(end)]
            return json.loads(archive.read(found[0])) if found else None
    except (zipfile.BadZipFile, json.JSONDecodeError, OSError) as exc:
        raise ArtifactError(f"{path} is no .pt2 file, or is damaged: {exc}. Export it again.") from exc
