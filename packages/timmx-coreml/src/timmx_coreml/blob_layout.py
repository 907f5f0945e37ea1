"""How MIL's weight files (blob storage, version 2) are laid out; neither torch nor numpy is imported.

A file begins with 64 bytes: uint32 count of records, uint32 version. A record is 64 bytes, at the offset that
the program names: uint32 sentinel, uint32 data type, uint64 bytes of data, uint64 offset of the data, uint64
unused bits at the data's end. Records and data begin at multiples of 64. Elements below one byte are packed
without gaps, from the lowest bit up.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

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
    """The weight file that a program calls `name`.

    Args:
        folder: what `@model_path` stands for; None where there is no such folder.
        where: whose weights they are, for the errors.

    Raises:
        ArtifactError: the name is none of a weight file, or the file is missing or cut off.
    """
    parts = name.removeprefix(_PREFIX).split("/")
    if not name.startswith(_PREFIX) or not {"", ".", ".."}.isdisjoint(parts):
        raise damaged(f"the weights of {where} are stored in {name!r}, which is not a path inside the model")
    path = None if folder is None else folder.joinpath(*parts)
    if path is None or not path.is_file():
        raise damaged(f"the weights of {where} are missing: {path or name} does not exist")
    if path.stat().st_size < ALIGNMENT:
        raise damaged(f"{path} is truncated: it has {path.stat().st_size} bytes")
    return path


def check_end(folder: Path | None, name: str, offset: int, where: str) -> None:
    """Refuse weights that their file does not hold to their end; the data is not read.

    Raises:
        ArtifactError: see `blob_path`; or the file ends before they do.
    """
    path = blob_path(folder, name, where)
    length = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(offset)
        record = stream.read(RECORD.size)
    if len(record) == RECORD.size:
        _, _, size, start, _ = RECORD.unpack(record)
        if start + size <= length:
            return
        offset = start + size
    raise damaged(f"the weights of {where} in {name} end at byte {offset}, but the file has {length} bytes")
