"""Reads a ZIP archive strictly, as `torch.export.save` writes it: readers cannot disagree about what it contains.

Members are stored without compression and fill the file without gaps, names are unique, and local headers equal the
central ones. The file is opened once.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timmx.plugin import NotRegularFile, open_file

if TYPE_CHECKING:
    from pathlib import Path

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_DESCRIPTOR_FLAG, _UTF8_FLAG = 0x0008, 0x0800
_ZIP64_EXTRA, _PADDING_EXTRA = 0x0001, 0x4246
"""Extra fields that `torch.export.save` writes: 64-bit sizes, and padding that aligns the payload."""

_MOST_MEMBERS = 100_000
_MOST_DIRECTORY_BYTES = 64_000_000
_LONGEST_NAME = 1024
_CHUNK_BYTES = 1 << 20


class DamagedZip(Exception):  # noqa: N818 - becomes an ArtifactError
    """The file is not a ZIP archive of this kind, with the reason."""


@dataclass(frozen=True)
class Member:
    """A member of the archive.

    Attributes:
        name: its path, with the archive's folder.
        start: position of the payload in the file, in bytes.
        size: of the payload in bytes.
        crc: CRC-32 of the payload.
    """

    name: str
    start: int
    size: int
    crc: int


class ZipFile:
    """An open archive; a context manager.

    Attributes:
        members: by name, in the order of the file.

    Raises:
        DamagedZip: the archive does not have this structure.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = open_file(path)
        except NotRegularFile as exc:
            raise DamagedZip(exc.strerror) from exc
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self.members = self._read_members()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ZipFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def read(self, member: Member, most: int) -> bytes:
        """The payload of a member.

        Args:
            member: one of `members`.
            most: its maximum size in bytes.

        Raises:
            DamagedZip: it is larger, or does not match its checksum.
            OSError: the file cannot be read.
        """
        if member.size > most:
            raise DamagedZip(
                f"its member {member.name} has {member.size:,} bytes, and at most {most:,} are read"
            )
        content = self._read(member.start, member.size)
        require_checksum(member, zlib.crc32(content))
        return content

    def checksum(self, member: Member) -> int:
        """CRC-32 of the payload of a member, computed in chunks."""
        value = 0
        for start in range(0, member.size, _CHUNK_BYTES):
            value = zlib.crc32(
                self._read(member.start + start, min(_CHUNK_BYTES, member.size - start)), value
            )
        return value

    def read_into(self, member: Member, at: int, buffer: memoryview) -> int:
        """Copy bytes of a payload from position `at` into `buffer`; returns how many."""
        self._file.seek(member.start + at)
        return self._file.readinto(buffer[: member.size - at])

    def _read(self, start: int, size: int) -> bytes:
        """Exactly `size` bytes from position `start`."""
        if start < 0 or start + size > self._size:
            raise DamagedZip("its directory points outside the file")
        self._file.seek(start)
        parts = []
        while size:
            part = self._file.read(size)
            if not part:
                raise DamagedZip("it became shorter while it was read")
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_members(self) -> dict[str, Member]:
        count, size, start = self._directory()
        directory = self._read(start, size)
        entries: list[tuple[int, Member, bytes, int]] = []
        position = 0
        for _ in range(count):
            if position + _CENTRAL.size > size:
                raise DamagedZip("its directory is cut off")
            fields = _CENTRAL.unpack_from(directory, position)
            position += _CENTRAL.size
            name_end = position + fields[10]
            extra_end = name_end + fields[11]
            if (
                fields[0] != b"PK\x01\x02" or fields[12] or extra_end > size
            ):  # fields[12]: length of a comment
                raise DamagedZip("its directory is damaged")
            name, extra = directory[position:name_end], directory[name_end:extra_end]
            position = extra_end
            entries.append(_central_entry(fields, name, extra))
        if position != size:
            raise DamagedZip("its directory has another size than its end states")
        folded: set[str] = set()
        for _, member, _, _ in entries:
            if member.name.casefold() in folded:
                raise DamagedZip(f"it has two members called {member.name!r}")
            folded.add(member.name.casefold())
        members: dict[str, Member] = {}
        entries.sort(key=lambda entry: entry[0])
        ends = [entry[0] for entry in entries[1:]] + [start]
        expected = 0
        for (header, member, name, flags), end in zip(entries, ends, strict=True):
            if header != expected:
                raise DamagedZip("it has bytes before its first member")
            members[member.name] = self._place(header, member, name, flags, end)
            expected = end
        return members

    def _directory(self) -> tuple[int, int, int]:
        """Number of members, size and position of the central directory."""
        if self._size < _END.size:
            raise DamagedZip("it is too short for a ZIP archive")
        end = self._size - _END.size
        mark, *disks, count, size, start, comment = _END.unpack(self._read(end, _END.size))
        if mark != b"PK\x05\x06" or comment:
            raise DamagedZip(
                "it does not end as a ZIP archive does: it is cut off, or has bytes after its end"
            )
        here, directory_disk, count_here = disks
        if here or directory_disk or count_here != count:
            raise DamagedZip("it is a part of a divided archive")
        at = end - _LOCATOR_64.size
        if at >= 0 and self._read(at, 4) == b"PK\x06\x07":
            _, disk, position, disks_64 = _LOCATOR_64.unpack(self._read(at, _LOCATOR_64.size))
            if disk or disks_64 != 1 or position + _END_64.size != at:
                raise DamagedZip("its 64-bit end is not where its directory ends")
            fields = _END_64.unpack(self._read(position, _END_64.size))
            (mark, length, _, _, here, directory_disk, count_here_64, count_64, size_64, start_64) = fields
            if mark != b"PK\x06\x06" or length != _END_64.size - 12 or here or directory_disk:
                raise DamagedZip("its 64-bit end is damaged")
            pairs = ((count, count_64, 0xFFFF), (size, size_64, 0xFFFFFFFF), (start, start_64, 0xFFFFFFFF))
            if count_here_64 != count_64 or any(short not in (long, limit) for short, long, limit in pairs):
                raise DamagedZip("its two ends state different directories")
            count, size, start, end = count_64, size_64, start_64, position
        if start + size != end:
            raise DamagedZip("it has bytes before its first member, or after its directory")
        if count > _MOST_MEMBERS or size > _MOST_DIRECTORY_BYTES:
            raise DamagedZip(f"it states {count:,} members in a directory of {size:,} bytes")
        return count, size, start

    def _place(self, header: int, member: Member, name: bytes, flags: int, end: int) -> Member:
        """The member with the start of its payload, its local header checked against the central one."""
        what = f"the local header of its member {member.name!r}"
        fields = _LOCAL.unpack(self._read(header, _LOCAL.size))
        mark, _, local_flags, method, _, _, crc, packed, size, name_length, extra_length = fields
        rest = self._read(header + _LOCAL.size, name_length + extra_length)
        if mark != b"PK\x03\x04" or rest[:name_length] != name or local_flags != flags or method:
            raise DamagedZip(f"{what} differs from the central one")
        _extra_fields(rest[name_length:], what)
        local = (crc, packed, size)
        central = (member.crc, member.size, member.size)
        payload = header + _LOCAL.size + name_length + extra_length
        tail = end - payload - member.size
        if not flags & _DESCRIPTOR_FLAG:
            matches = local == central and not tail
        elif local not in (central, (0, 0, 0)) or tail not in (16, 24):
            matches = False
        else:
            form = "<4sLLL" if tail == 16 else "<4sLQQ"
            known = tail == 24 or member.size <= 0xFFFFFFFF
            matches = known and self._read(payload + member.size, tail) == struct.pack(
                form, b"PK\x07\x08", *central
            )
        if not matches:
            raise DamagedZip(f"{what} differs from the central one, or bytes lie between its members")
        return Member(member.name, payload, member.size, member.crc)


def require_checksum(member: Member, crc: int) -> None:
    """Raise an error if a payload with this CRC-32 is not the one of the member.

    Raises:
        DamagedZip: it is another one.
    """
    if crc != member.crc:
        raise DamagedZip(f"its member {member.name} does not match its checksum")


def _central_entry(fields: tuple[int, ...], name: bytes, extra: bytes) -> tuple[int, Member, bytes, int]:
    """Position of the local header, the member without its start, its name as bytes, and its flags."""
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    text = _checked_name(name)
    what = f"its member {text!r}"
    if flags & 0x0041:
        raise DamagedZip(f"{what} is encrypted")
    if flags & ~(_DESCRIPTOR_FLAG | _UTF8_FLAG):
        raise DamagedZip(f"{what} has unknown flags")
    if method:
        raise DamagedZip(f"{what} is compressed, and torch.export.save writes members without compression")
    header = fields[16]
    wide = _extra_fields(extra, what).get(_ZIP64_EXTRA, b"")
    values = [size, packed, header]
    for index, value in enumerate(values):
        if value == 0xFFFFFFFF:
            if len(wide) < 8:
                raise DamagedZip(f"{what} has no 64-bit size")
            values[index], wide = int.from_bytes(wide[:8], "little"), wide[8:]
    size, packed, header = values
    if wide:
        raise DamagedZip(f"{what} states its size twice")
    if size != packed or fields[13]:  # fields[13]: the disk where it starts
        raise DamagedZip(f"{what} has two sizes")
    return header, Member(text, 0, size, crc), name, flags


def _extra_fields(extra: bytes, what: str) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(extra):
        if position + 4 > len(extra):
            raise DamagedZip(f"{what} is damaged")
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4
        if kind not in (_ZIP64_EXTRA, _PADDING_EXTRA) or kind in fields or position + length > len(extra):
            raise DamagedZip(f"{what} has extra fields that torch.export.save does not write")
        fields[kind] = extra[position : position + length]
        position += length
    return fields


def _checked_name(name: bytes) -> str:
    """The name of a member as text: a relative path without `..`, control characters and backslashes."""
    if len(name) > _LONGEST_NAME:
        raise DamagedZip(f"the name of a member has {len(name):,} bytes")
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise DamagedZip("the name of a member is not UTF-8") from exc
    parts = text.split("/")
    if not text.isprintable() or set(text) & set("\\:") or any(part in ("", ".", "..") for part in parts):
        raise DamagedZip(f"the name of a member is not a relative path: {text!r}")
    return text
