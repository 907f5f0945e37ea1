"""Reads a `.pt2` file, which is a ZIP archive, without torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, parse_json_object

from timmx_torch_export.zip_file import DamagedZip, ZipFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from timmx_torch_export.zip_file import Member

METADATA_NAME = "timmx.json"
"""The key in `torch.export.load`'s `extra_files`."""

MODEL = "models/model.json"
_FORMAT, _FORMAT_VALUE = "archive_format", b"pt2"

_LARGEST_JSON_BYTES = 64_000_000
"""The program of the largest timm models has less than 20 MB."""
_MOST_VALUES = 4_000_000
"""Of a program: one in 20 bytes. An empty list takes 30 times the memory of its text."""
_LARGEST_METADATA_BYTES = 16_000_000
_LARGEST_MARK_BYTES = 100
_MOST_DIMENSIONS, _LARGEST_SIZE, _LONGEST_TEXT = 64, 2**63 - 1, 4096

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


class Pt2Archive:
    """An open `.pt2` file.

    Attributes:
        file: the ZIP archive.
        members: by name, without the archive's folder.
    """

    def __init__(self, path: Path, file: ZipFile) -> None:
        self.file = file
        folders = {name.partition("/")[0] for name in file.members if "/" in name}
        self.members = {name.partition("/")[2]: member for name, member in file.members.items()}
        if _FORMAT not in self.members or self.mark(_FORMAT) != _FORMAT_VALUE:
            raise ArtifactError(
                f"{path} is a zip archive, but not a .pt2 file of torch.export",
                hint="name a .pt2 file, or export it again",
            )
        if len(folders) != 1 or len(self.members) != len(file.members) or "" in self.members:
            raise DamagedZip("its members are not in one folder")

    def mark(self, name: str) -> bytes:
        """The content of a short member, b"" if there is none."""
        member = self.members.get(name)
        return b"" if member is None else self.file.read(member, _LARGEST_MARK_BYTES)

    def json(self, name: str) -> Any:
        """The content of a member with JSON.

        Raises:
            DamagedZip: there is no such member, or it is not JSON.
        """
        if name not in self.members:
            raise DamagedZip(f"it has no member {name}")
        return _json(self.file, self.members[name])


@contextmanager
def open_archive(path: Path) -> Iterator[Pt2Archive]:
    """Open a `.pt2` file; its structure is checked.

    Raises:
        ArtifactError: the file is not a `.pt2`, or is damaged.
    """
    try:
        with ZipFile(path) as file:
            yield Pt2Archive(path, file)
    except DamagedZip as exc:
        raise ArtifactError(
            f"{path} is not a .pt2 file, or is damaged: {exc}", hint="export it again"
        ) from exc
    except OSError as exc:
        raise ArtifactError(
            f"{path} cannot be read: {exc.strerror or exc}", hint="check the path and its permissions"
        ) from exc


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in a `.pt2` file, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not a `.pt2`, or is damaged.
    """
    with open_archive(path) as archive:
        member = archive.members.get(f"extra/{METADATA_NAME}")
        if member is None:
            return {}
        content = archive.file.read(member, _LARGEST_METADATA_BYTES)
    return parse_json_object(path, content)


def inspect(path: Path) -> dict[str, Any]:
    """Operations by ATen name, the number of parameters, inputs and outputs.

    Raises:
        ArtifactError: the file is not a `.pt2`, or is damaged.
    """
    with open_archive(path) as archive:
        if MODEL not in archive.members:
            return {}
        model = archive.json(MODEL)
    try:
        graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
        operations = Counter(_text(node["target"]).removeprefix("torch.ops.") for node in graph["nodes"])
        values = graph["tensor_values"]
        weights = [
            spec["parameter"]["arg"]["name"] for spec in signature["input_specs"] if "parameter" in spec
        ]
        return {
            "operations": dict(sorted(operations.items())),
            "parameters": sum(_count(values[name]) for name in weights),
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
    except (LookupError, TypeError, AttributeError, ValueError) as exc:
        raise ArtifactError(
            f"{path} is damaged, or was written by a torch.export with another graph format "
            f"({type(exc).__name__}: {str(exc)[:200]})",
            hint="export it again",
        ) from exc


def _describe(argument: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """An input or output of the graph; one that is not a tensor has an empty shape and the element type `other`."""
    name = argument.get("as_tensor", {}).get("name", "")
    if name not in values:
        return {"name": _text(name) or "?", "shape": [], "dtype": "other"}
    value = values[name]
    return {"name": _text(name), "shape": _sizes(value), "dtype": _DTYPES.get(value["dtype"], "other")}


def _count(value: dict[str, Any]) -> int:
    """The number of elements of a tensor."""
    sizes = _sizes(value)
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError("a parameter has a dynamic size")
    return math.prod(sizes)


def _sizes(value: dict[str, Any]) -> list[Any]:
    """A tensor's shape; a dynamic first size is called `batch`, another one has torch's name."""
    sizes = [size.get("as_int", size.get("as_expr", {}).get("expr_str", "?")) for size in value["sizes"]]
    if len(sizes) > _MOST_DIMENSIONS:
        raise ValueError(f"a tensor has {len(sizes):,} dimensions")
    for size in sizes:
        if isinstance(size, int) and not 0 <= size <= _LARGEST_SIZE:
            raise ValueError("a tensor has an impossible size")
        if not isinstance(size, int):
            _text(size)
    return ["batch", *sizes[1:]] if sizes and isinstance(sizes[0], str) else sizes


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise ValueError("a name is not a short text")
    return value


def _json(file: ZipFile, member: Member) -> Any:
    content = file.read(member, _LARGEST_JSON_BYTES)
    if sum(map(content.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise DamagedZip(f"its member {member.name} has more than {_MOST_VALUES:,} values")
    try:
        return json.loads(content)
    except (
        ValueError,
        RecursionError,
    ) as exc:  # ValueError: not JSON, not UTF-8, or a number of 4,300 digits
        raise DamagedZip(f"its member {member.name} is not JSON: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    return "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)[:200]
