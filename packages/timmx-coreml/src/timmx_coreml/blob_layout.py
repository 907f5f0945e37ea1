"""The layout of MIL's weight files (blob storage, version 2). Imports neither torch nor numpy.

A file begins with a header of 64 bytes: uint32 number of records, uint32 version. A record has 64 bytes, at the
offset that the program names: uint32 sentinel, uint32 data type, uint64 bytes of data, uint64 offset of the data,
uint64 unused bits at the end of the data. Records and data are aligned to 64 bytes. Elements smaller than one byte
are packed without gaps, lowest bit first.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from timmx.plugin import open_file, path_problem, shown

from timmx_coreml.errors import damaged

if TYPE_CHECKING:
    from pathlib import Path

HEADER = struct.Struct("<II")
RECORD = struct.Struct("<IIQQQ")
ALIGNMENT = 64
SENTINEL = 0xDEADBEEF
VERSION = 2
_PREFIX = "@model_path/"


def blob_path(folder: Path | None, name: str, where: str) -> Path:
    """Return the path of the weight file that a program calls `name`.

    Args:
        folder: the folder that `@model_path` stands for; None if there is none.
        name: begins with `@model_path/`.
        where: what uses the weights, for error messages.

    Raises:
        ArtifactError: the name is not a path inside the model, or the file is missing or truncated.
    """
    parts = name.removeprefix(_PREFIX).split("/")
    if not name.startswith(_PREFIX) or not {"", ".", ".."}.isdisjoint(parts):
        raise damaged(
            f"the weights of {where} are stored in {name[:200]!r}, which is not a path inside the model"
        )
    path = None if folder is None else folder.joinpath(*parts)
    if path is None or path_problem(path) or not path.is_file():
        raise damaged(f"the weights of {where} are missing: {shown(name[:200])} does not exist")
    if path.stat().st_size < ALIGNMENT:
        raise damaged(f"{path} is truncated: it has {path.stat().st_size} bytes")
    return path


def check_end(folder: Path | None, name: str, offset: int, where: str) -> None:
    """Check that a weight file contains all data of the record at `offset`, without reading the data.

    Raises:
        ArtifactError: as for `blob_path`, or the data is truncated.
    """
    path = blob_path(folder, name, where)
    length = path.stat().st_size
    record = b""
    if offset < length:
        with open_file(path) as stream:
            stream.seek(offset)
            record = stream.read(RECORD.size)
    if len(record) == RECORD.size:
        _, _, size, start, _ = RECORD.unpack(record)
        if start + size <= length:
            return
        offset = start + size
    raise damaged(f"the weights of {where} in {name} end at byte {offset}, but the file has {length} bytes")
