"""Reads a `.pt2` file, which is a ZIP archive, without torch."""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

METADATA_NAME = "timmx.json"
"""The key in `torch.export.load`'s `extra_files`."""

_DTYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    12: "bool",
    13: "bfloat16",
}
"""Names of `torch._export.serde.schema.ScalarType`."""


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in a `.pt2` file, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not a `.pt2`, or is damaged.
    """
    content = _read(path, f"/extra/{METADATA_NAME}")
    return {} if content is None else content


def inspect(path: Path) -> dict[str, Any]:
    """Operations by ATen name, the number of parameters, inputs and outputs.

    Raises:
        ArtifactError: the file is not a `.pt2`, or is damaged.
    """
    model = _read(path, "/models/model.json")
    if model is None:
        return {}
    try:
        graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
        operations = Counter(node["target"].removeprefix("torch.ops.") for node in graph["nodes"])
        values = graph["tensor_values"]
        weights = [
            spec["parameter"]["arg"]["name"] for spec in signature["input_specs"] if "parameter" in spec
        ]
        return {
            "operations": dict(sorted(operations.items())),
            "parameters": sum(math.prod(_sizes(values[name])) for name in weights),
            "inputs": [
                _describe(spec["user_input"]["arg"], values)
                for spec in signature["input_specs"]
                if "user_input" in spec
            ],
            "outputs": [
                _describe(spec["user_output"]["arg"], values)
                for spec in signature["output_specs"]
                if "user_output" in spec
            ],
        }
    except (LookupError, TypeError, AttributeError) as exc:
        raise ArtifactError(
            f"{path} is damaged, or was written by a torch.export with another graph format "
            f"({type(exc).__name__}: {exc})",
            hint="export it again",
        ) from exc


def _describe(argument: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """An input or output of the graph; one that is not a tensor has an empty shape and the element type `other`."""
    name = argument.get("as_tensor", {}).get("name", "")
    if name not in values:
        return {"name": name or "?", "shape": [], "dtype": "other"}
    value = values[name]
    return {"name": name, "shape": _sizes(value), "dtype": _DTYPES.get(value["dtype"], "other")}


def _sizes(value: dict[str, Any]) -> list[Any]:
    """A tensor's shape; a dynamic first size is called `batch`, another one has torch's name."""
    sizes = [size.get("as_int", size.get("as_expr", {}).get("expr_str", "?")) for size in value["sizes"]]
    return ["batch", *sizes[1:]] if sizes and isinstance(sizes[0], str) else sizes


def _read(path: Path, end: str) -> Any:
    """The JSON of the archive's entry whose name ends with `end`, None without such an entry."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any(name.endswith("/archive_format") for name in names):
                raise ArtifactError(
                    f"{path} is a zip archive, but not a .pt2 file of torch.export",
                    hint="name a .pt2 file, or export it again",
                )
            entry = next((name for name in names if name.endswith(end)), None)
            return None if entry is None else json.loads(archive.read(entry))
    except (zipfile.BadZipFile, json.JSONDecodeError, OSError) as exc:
        raise ArtifactError(
            f"{path} is not a .pt2 file, or is damaged: {exc}", hint="export it again"
        ) from exc
