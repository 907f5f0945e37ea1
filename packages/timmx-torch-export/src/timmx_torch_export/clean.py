"""Rebuilds a `.pt2` file from the parts that run no code: `CleanFile` is what torch reads instead of the file.

The program is written again (`timmx_torch_export.program`). Weights are not copied: the clean file reads them from the
open file when torch asks for them, and checks their checksums on the way. Left out are example inputs, which torch
unpickles, and everything in `extra/`.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx_torch_export.archive import MODEL
from timmx_torch_export.program import (
    BOOL,
    ELEMENT_BYTES,
    DamagedProgram,
    Tensor,
    UnsafeProgram,
    clean_program,
    clean_tensor,
)
from timmx_torch_export.zip_file import require_checksum

if TYPE_CHECKING:
    from collections.abc import Iterable

    from timmx_torch_export.archive import Pt2Archive
    from timmx_torch_export.zip_file import Member

_WEIGHTS, _WEIGHTS_CONFIG = "data/weights/", "data/weights/model_weights_config.json"
_CONSTANTS, _CONSTANTS_CONFIG = "data/constants/", "data/constants/model_constants_config.json"
_EXAMPLES = "data/sample_inputs/model.pt"
_MARKS = {"archive_format": b"pt2", "archive_version": b"0"}
_ORDER = "byteorder"
_IGNORED = (".data/version", ".data/serialization_id", _EXAMPLES)
_PAYLOAD = re.compile(r"data/(?:weights/weight|constants/tensor)_\d{1,6}")
_CHUNK_BYTES = 1 << 20


def clean_file(archive: Pt2Archive) -> CleanFile:
    """Judge a `.pt2` file and rebuild it.

    Raises:
        DamagedZip, DamagedProgram: it is damaged.
        UnsafeProgram: it has a part that can run code, or that `torch.export.save` does not write.
    """
    for name in archive.members:
        known = name in (MODEL, _WEIGHTS_CONFIG, _CONSTANTS_CONFIG, _ORDER, *_MARKS, *_IGNORED)
        if not known and not name.startswith("extra/") and not _PAYLOAD.fullmatch(name):
            raise UnsafeProgram(f"it has the member {name}")
    for name, value in _MARKS.items():
        if archive.mark(name) != value:
            raise UnsafeProgram(f"its {name} is not {value.decode()}")
    if archive.mark(_ORDER) not in (b"", b"little"):
        raise UnsafeProgram("it was written on a machine with another byte order")
    program = clean_program(archive.json(MODEL))
    parts: list[tuple[str, bytes | Member]] = []
    payloads_written: set[str] = set()
    for folder, config, names in (
        (_WEIGHTS, _WEIGHTS_CONFIG, program.weights),
        (_CONSTANTS, _CONSTANTS_CONFIG, program.constants),
    ):
        payloads = _mapping(_mapping(archive.json(config)).get("config"))
        clean: dict[str, Any] = {}
        dtypes: dict[str, int] = {}
        for name, new_name in names:
            if name not in payloads:
                raise DamagedProgram(f"its tensor {new_name} is missing")
            payload = _payload(payloads[name], folder, archive)
            expected = program.tensors[new_name]
            if (payload.tensor.dtype, payload.tensor.sizes) != (expected.dtype, expected.sizes):
                raise DamagedProgram(
                    f"its tensor {new_name} has another shape or type than its program states"
                )
            path = payload.content["path_name"]
            if dtypes.setdefault(path, payload.tensor.dtype) != payload.tensor.dtype:
                raise UnsafeProgram("two tensors of different types share their memory")
            if folder + path not in payloads_written:
                payloads_written.add(folder + path)
                parts.append((folder + path, payload.member))
            clean[new_name] = payload.content
        parts.append((config, json.dumps({"config": clean}).encode()))
    parts += _MARKS.items()
    parts += [(_EXAMPLES, b""), (".data/version", b"6\n"), (_ORDER, b"little")]
    parts.append((MODEL, json.dumps(program.content).encode()))
    return CleanFile(archive, parts)


@dataclass(frozen=True)
class _Payload:
    """A tensor of the file, its memory, and its entry in the clean file."""

    tensor: Tensor
    member: Member
    content: dict[str, Any]


def _payload(value: Any, folder: str, archive: Pt2Archive) -> _Payload:
    """Judge an entry of a configuration, `PayloadMeta` in torch's schema, and the size of its member."""
    entry = _mapping(value)
    path = entry.get("path_name")
    if entry.get("use_pickle") is not False:
        raise UnsafeProgram("it has a pickled tensor")
    if not isinstance(path, str) or not _PAYLOAD.fullmatch(folder + path):
        raise UnsafeProgram("it has a weight or constant that is not stored as a tensor")
    is_parameter = entry.get("is_param")
    if not isinstance(is_parameter, bool):
        raise DamagedProgram("a tensor is neither a parameter nor a buffer")
    member = archive.members.get(folder + path)
    if member is None:
        raise DamagedProgram(f"its member {folder}{path} is missing")
    tensor = clean_tensor(entry.get("tensor_meta"))
    layout = [*tensor.content["sizes"], *tensor.content["strides"], tensor.content["storage_offset"]]
    numbers = [number for item in layout if (number := item.get("as_int", -1)) >= 0]
    if len(numbers) != len(layout):
        raise DamagedProgram(f"the size of {path} is not a number")
    rank, offset = len(tensor.sizes), numbers[-1]
    sizes, strides = numbers[:rank], numbers[rank:-1]
    width = ELEMENT_BYTES[tensor.dtype]
    empty = 0 in sizes
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if member.size % width or (not empty and (last + 1) * width > member.size):
        raise DamagedProgram(f"{path} has {member.size:,} bytes, which do not fit its shape")
    if tensor.dtype == BOOL:
        _require_booleans(archive, member)
    content = {
        "path_name": path,
        "is_param": is_parameter,
        "use_pickle": False,
        "tensor_meta": tensor.content,
    }
    return _Payload(tensor, member, content)


def _require_booleans(archive: Pt2Archive, member: Member) -> None:
    """Check that each byte is 0 or 1: kernels count elements of masks in ways that disagree about other values."""
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    for at in range(0, member.size, _CHUNK_BYTES):
        count = archive.file.read_into(member, at, buffer)
        if bytes(buffer[:count]).strip(b"\0\1"):
            raise DamagedProgram(f"{member.name} is not made of booleans")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedProgram("the list of its tensors is damaged")
    return value


class CleanFile(io.RawIOBase):
    """A ZIP archive that torch reads: its members are in memory, or lie in the open file.

    The folder of the members is called `archive`.
    """

    def __init__(self, archive: Pt2Archive, parts: Iterable[tuple[str, bytes | Member]]) -> None:
        super().__init__()
        self._archive = archive
        self._parts: list[tuple[int, bytes | Member]] = []
        self._checksums: dict[str, tuple[int, int]] = {}
        """By name of a member: how many of its bytes torch has read, and their CRC-32."""
        self._size = 0
        self._position = 0
        directory = []
        for name, content in parts:
            size = len(content) if isinstance(content, bytes) else content.size
            crc = zlib.crc32(content) if isinstance(content, bytes) else content.crc
            text = f"archive/{name}".encode()
            header = self._size
            self._add(_local_header(text, crc, size))
            self._add(content)
            directory.append(_central_header(text, crc, size, header))
        start = self._size
        self._add(b"".join(directory))
        self._add(_end(len(directory), self._size - start, start))

    def require_checksums(self) -> None:
        """Check that what torch read are the weights that the file states.

        Raises:
            DamagedZip: a weight does not match its checksum.
        """
        for _, content in self._parts:
            if isinstance(content, bytes):
                continue
            count, crc = self._checksums.get(content.name, (0, 0))
            require_checksum(content, crc if count == content.size else self._archive.file.checksum(content))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        total = 0
        index = self._part_at(self._position)
        while total < len(view) and index < len(self._parts):
            count = self._read_part(index, view[total:])
            if not count:
                break
            total += count
            self._position += count
            index = self._part_at(self._position)
        return total

    def _read_part(self, index: int, view: memoryview) -> int:
        start, content = self._parts[index]
        at = self._position - start
        if isinstance(content, bytes):
            piece = content[at : at + len(view)]
            view[: len(piece)] = piece
            return len(piece)
        count = self._archive.file.read_into(content, at, view)
        done, crc = self._checksums.get(content.name, (0, 0))
        if done == at:
            self._checksums[content.name] = (at + count, zlib.crc32(view[:count], crc))
        return count

    def _part_at(self, position: int) -> int:
        """Index of the part with this position; the number of parts at the end."""
        low, high = 0, len(self._parts)
        while low < high:
            middle = (low + high) // 2
            start, content = self._parts[middle]
            if position >= start + (len(content) if isinstance(content, bytes) else content.size):
                low = middle + 1
            else:
                high = middle
        return low

    def _add(self, content: bytes | Member) -> None:
        size = len(content) if isinstance(content, bytes) else content.size
        if size:
            self._parts.append((self._size, content))
            self._size += size


_LIMIT = 0xFFFFFFFF


def _local_header(name: bytes, crc: int, size: int) -> bytes:
    extra = struct.pack("<HHQQ", 1, 16, size, size) if size >= _LIMIT else b""
    short = min(size, _LIMIT)
    fields = (b"PK\x03\x04", 45, 0, 0, 0, 0, crc, short, short, len(name), len(extra))
    return struct.pack("<4s5H3L2H", *fields) + name + extra


def _central_header(name: bytes, crc: int, size: int, header: int) -> bytes:
    wide = [size, size] if size >= _LIMIT else []
    wide += [header] if header >= _LIMIT else []
    extra = struct.pack(f"<HH{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
    short = min(size, _LIMIT)
    fields = (b"PK\x01\x02", 45, 45, 0, 0, 0, 0, crc, short, short, len(name), len(extra), 0, 0, 0, 0)
    return struct.pack("<4s6H3L5H2L", *fields, min(header, _LIMIT)) + name + extra


def _end(count: int, size: int, start: int) -> bytes:
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, start + size, 1)
    short = (min(count, 0xFFFF), min(size, _LIMIT), min(start, _LIMIT))
    return wide + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, short[0], short[0], *short[1:], 0)
