"""Writes and reads the entry `TFLITE_METADATA`, a model's description for Android's and MediaPipe's task libraries.

It is a flatbuffer with its own schema (`metadata_schema.fbs` of tflite-support and MediaPipe, 1.5.0) in the model's
metadata list. The files that it names, such as the labels, follow the model as a ZIP archive. The library that wrote
both, tflite-support, has had no release since 2023; MediaPipe's writer cannot be imported (1.2.3).
"""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, open_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

NAME = "TFLITE_METADATA"
"""The entry's name in the model's metadata list."""

_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.0.0"
"""The oldest reader version that supports every field written here."""

_TABLES = {
    table: dict(field.split(":") for field in fields.split())
    for table, fields in {
        "ModelMetadata": "name:string description:string version:string subgraph_metadata:[SubGraphMetadata] "
        "author:string license:string associated_files:[AssociatedFile] min_parser_version:string",
        "SubGraphMetadata": "name:string description:string input_tensor_metadata:[TensorMetadata] "
        "output_tensor_metadata:[TensorMetadata] associated_files:[AssociatedFile]",
        "TensorMetadata": "name:string description:string dimension_names:[string] content:Content "
        "process_units:[ProcessUnit] stats:Stats associated_files:[AssociatedFile]",
        "Content": "content_properties:ContentProperties range:ValueRange",
        "FeatureProperties": "",
        "ImageProperties": "color_space:ColorSpaceType default_size:ImageSize",
        "ImageSize": "width:uint height:uint",
        "ValueRange": "min:int max:int",
        "ProcessUnit": "options:ProcessUnitOptions",
        "NormalizationOptions": "mean:[float] std:[float]",
        "ScoreThresholdingOptions": "global_score_threshold:float",
        "Stats": "max:[float] min:[float]",
        "AssociatedFile": "name:string description:string type:AssociatedFileType locale:string version:string",
    }.items()
}
"""The schema's tables, with fields in its order. Tables, and fields at the end of a table, that image models do not
need are omitted; all other fields keep their numbers."""

_UNIONS = {
    "ContentProperties": "NONE FeatureProperties ImageProperties BoundingBoxProperties AudioProperties".split(),
    "ProcessUnitOptions": "NONE NormalizationOptions ScoreCalibrationOptions ScoreThresholdingOptions "
    "BertTokenizerOptions SentencePieceTokenizerOptions RegexTokenizerOptions".split(),
}
"""A union field `x` has the name of its table in `x_type`."""

_ENUMS = {
    "ColorSpaceType": "UNKNOWN RGB GRAYSCALE".split(),
    "AssociatedFileType": "UNKNOWN DESCRIPTIONS TENSOR_AXIS_LABELS TENSOR_VALUE_LABELS "
    "TENSOR_AXIS_SCORE_CALIBRATION VOCABULARY SCANN_INDEX_FILE".split(),
}

_NUMBERS = {"int": "Int32", "uint": "Uint32", "float": "Float32"}
"""Schema type to flatbuffers' name."""

_COLOR_SPACES = {1: "GRAYSCALE", 3: "RGB"}
_ARCHIVE_END, _ARCHIVE_END_SIZE = b"PK\5\6", 22
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError)
"""What flatbuffers' accessors raise on bytes that are not a flatbuffer."""
_LARGEST_FILES = 2**28
"""Maximum size of the attached files in bytes, uncompressed: lists of labels."""


@dataclass(frozen=True)
class Tensor:
    """The description of an input or output.

    Attributes:
        minimum: the smallest value, one per channel or one for all; empty if unknown.
        maximum: the largest value, likewise.
    """

    name: str
    description: str
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageInput(Tensor):
    """An input that a task library computes from an image: resized, then `(pixel - mean) / std`.

    A uint8 tensor that is not quantized has mean 0 and std 1. A quantized tensor has those of the float values that its
    bytes stand for. A graph that normalizes pixels in [0, 1] has 0 and 255.

    Attributes:
        channels: 1 for gray, 3 for RGB.
        size: height and width in pixels.
        mean: one per channel or one for all, in pixel values from 0 to 255.
        std: likewise.
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Output(Tensor):
    """An output.

    Attributes:
        labels_file: the appended file with the names of its classes, None if there is none.
    """

    labels_file: str | None = None


def build(
    *,
    name: str,
    description: str,
    version: str | None = None,
    author: str | None = None,
    license: str | None = None,
    inputs: Sequence[Tensor],
    outputs: Sequence[Output],
) -> bytes:
    """The entry's content. The same arguments give the same bytes.

    Args:
        name: the model's name.
        description: what the model does.
        version: the model's version.
        author: who trained the model.
        license: the license of the weights.
        inputs: one per input of the graph, in its order: MediaPipe refuses another number.
        outputs: likewise.
    """
    import flatbuffers

    model = {
        "name": name,
        "description": description,
        "version": version,
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [_input(tensor) for tensor in inputs],
                "output_tensor_metadata": [_output(tensor) for tensor in outputs],
            }
        ],
        "author": author,
        "license": license,
        "min_parser_version": _PARSER_VERSION,
    }
    builder = flatbuffers.Builder(4096)
    builder.Finish(_write(builder, "ModelMetadata", model), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def labels_content(names: Iterable[str]) -> bytes:
    """The content of a labels file: one class per line; line breaks in a name become spaces."""
    return "\n".join(re.sub(r"\s*[\r\n]\s*", " ", name) for name in names).encode()


def append_files(file: IO[bytes], files: Mapping[str, bytes]) -> None:
    """Append files to a model where the task libraries look for them. The same files give the same bytes.

    MediaPipe reads only uncompressed files. Android's extractor counts offsets from the start of the whole file, and
    looks for the archive's end in the last 22 bytes.

    Args:
        file: open for writing and seekable, positioned at the end of the model.
        files: name to content. Nothing is written if it is empty.
    """
    if not files:
        return
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # dated 1980
            entry.create_system = 3  # Linux, for the same bytes on every system
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def read(content: bytes, path: Path) -> dict[str, Any]:
    """The entry's content as JSON values, with the schema's names, without fields that are not set.

    Args:
        content: the bytes of the entry `NAME`.
        path: the model, for error messages.

    Raises:
        ArtifactError: the entry is something else, or is damaged.
    """
    from flatbuffers.table import Table

    if content[4:8] != _IDENTIFIER:
        raise ArtifactError(
            f"{path}: its {NAME} is damaged: the identifier M001 is missing", hint="export it again"
        )
    try:
        root = Table(content, 0)
        root.Pos = root.Indirect(0)
        return _read(root, "ModelMetadata")
    except _DAMAGE as exc:
        raise ArtifactError(
            f"{path}: its {NAME} is damaged ({type(exc).__name__}: {exc})", hint="export it again"
        ) from exc


def associated_files(path: Path) -> tuple[str, ...]:
    """The names of the files appended to a model, after checking their checksums; empty without an archive.

    Raises:
        ArtifactError: the archive, or a file in it, is damaged.
    """
    with open_file(path) as file:
        file.seek(-min(_ARCHIVE_END_SIZE, path.stat().st_size), os.SEEK_END)
        if file.read(4) != _ARCHIVE_END:  # not searched for further up, where weights may look like it
            return ()
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = sum(info.file_size for info in archive.infolist())
            if sizes > _LARGEST_FILES:
                raise ValueError(f"they have {sizes:,} bytes, and may have {_LARGEST_FILES:,}")
            damaged = archive.testzip()
            names = tuple(archive.namelist())
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, *_DAMAGE) as exc:
        raise ArtifactError(
            f"{path} is damaged: the files attached to the model cannot be read ({exc})",
            hint="export it again",
        ) from exc
    if damaged is not None:
        raise ArtifactError(
            f"{path} is damaged: the attached file {damaged} is corrupt", hint="export it again"
        )
    return names


def _input(tensor: Tensor) -> dict[str, Any]:
    if not isinstance(tensor, ImageInput):
        return _tensor(tensor)
    height, width = tensor.size
    image = {
        "color_space": _COLOR_SPACES[tensor.channels],
        "default_size": {"width": width, "height": height},
    }
    normalization = {"mean": tensor.mean, "std": tensor.std}
    return {
        **_tensor(tensor),
        "content": {"content_properties_type": "ImageProperties", "content_properties": image},
        "process_units": [{"options_type": "NormalizationOptions", "options": normalization}],
    }


def _output(tensor: Output) -> dict[str, Any]:
    if tensor.labels_file is None:
        return _tensor(tensor)
    labels = {
        "name": tensor.labels_file,
        "description": "The names of the classes, one per line.",
        "type": "TENSOR_AXIS_LABELS",
    }
    return {**_tensor(tensor), "associated_files": [labels]}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    stats = {"max": tensor.maximum or None, "min": tensor.minimum or None}
    return {
        "name": tensor.name,
        "description": tensor.description,
        "content": {"content_properties_type": "FeatureProperties", "content_properties": {}},
        "stats": stats if any(stats.values()) else None,
    }


def _write(builder: Any, table: str, values: Mapping[str, Any]) -> int:
    """Write a table to the buffer, after everything that it refers to, and return its offset."""
    fields: list[tuple[str, int, int]] = []
    slot = 0
    for field, kind in _TABLES[table].items():
        value = values.get(field)
        if kind in _UNIONS:
            if value is not None:
                member = values[f"{field}_type"]
                fields.append(("Uint8", slot, _UNIONS[kind].index(member)))
                fields.append(("UOffsetTRelative", slot + 1, _write(builder, member, value)))
            slot += 2
            continue
        if value is None:
            pass
        elif kind in _ENUMS:
            fields.append(("Int8", slot, _ENUMS[kind].index(value)))
        elif kind in _NUMBERS:
            fields.append((_NUMBERS[kind], slot, value))
        else:
            fields.append(("UOffsetTRelative", slot, _write_value(builder, kind, value)))
        slot += 1
    builder.StartObject(slot)
    for kind, number, value in fields:
        getattr(builder, f"Prepend{kind}Slot")(number, value, 0)
    return builder.EndObject()


def _write_value(builder: Any, kind: str, value: Any) -> int:
    import numpy as np

    if kind == "string":
        return builder.CreateString(value)
    if kind == "[float]":
        return builder.CreateNumpyVector(np.array(value, np.float32))
    if kind in _TABLES:
        return _write(builder, kind, value)
    offsets = [_write_value(builder, kind[1:-1], item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _read(table: Any, name: str) -> dict[str, Any]:
    """The values of a table that are set; the types of its unions come first, as in `flatc --json`."""
    from flatbuffers import number_types
    from flatbuffers.table import Table

    values: dict[str, Any] = {}
    slot = 0
    for field, kind in _TABLES[name].items():
        offset = table.Offset(4 + 2 * slot)
        slot += 1
        if kind in _UNIONS:
            number = table.Get(number_types.Uint8Flags, table.Pos + offset) if offset else 0
            offset = table.Offset(4 + 2 * slot)
            slot += 1
            if number and offset:
                values[f"{field}_type"] = member = _choice(_UNIONS[kind], number)
                if member in _TABLES:
                    value = Table(table.Bytes, 0)
                    table.Union(value, offset)
                    values[field] = _read(value, member)
        elif not offset:
            continue
        elif kind in _ENUMS:
            number = table.Get(number_types.Int8Flags, table.Pos + offset)
            values[field] = _choice(_ENUMS[kind], number)
        elif kind in _NUMBERS:
            value = table.Get(getattr(number_types, f"{_NUMBERS[kind]}Flags"), table.Pos + offset)
            values[field] = _shortest(value) if kind == "float" else value
        else:
            values[field] = _read_value(table, kind, table.Pos + offset)
    return values


def _read_value(table: Any, kind: str, position: int) -> Any:
    from flatbuffers.table import Table

    start = table.Indirect(position)
    if kind in _TABLES:
        return _read(Table(table.Bytes, start), kind)
    (count,) = struct.unpack_from("<I", table.Bytes, start)
    start += 4
    if kind == "string":
        if start + count > len(table.Bytes):
            raise ValueError("a string extends past the end")
        return bytes(table.Bytes[start : start + count]).decode()
    if kind == "[float]":
        return [_shortest(value) for value in struct.unpack_from(f"<{count}f", table.Bytes, start)]
    return [_read_value(table, kind[1:-1], start + 4 * index) for index in range(count)]


def _shortest(value: float) -> float:
    """A float32 in its shortest form: 0.1, not 0.10000000149011612."""
    import numpy as np

    return float(str(np.float32(value)))


def _choice(names: list[str], number: int) -> str | int:
    """The name of an enumeration's value; a value of a later schema keeps its number."""
    return names[number] if 0 <= number < len(names) else number
