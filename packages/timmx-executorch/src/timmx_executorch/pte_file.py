"""Reads a `.pte` file without torch and without the runtime."""

from __future__ import annotations

import mmap
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, check_companion, open_file, parse_json_object, require_file

from timmx_executorch.schema import IDENTIFIER, Program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METADATA_NAME = "timmx"
"""The name of the blob that holds our JSON."""
WEIGHTS_SUFFIX = ".ptd"

_HEADER = struct.Struct("<4sIQQQ")
"""After the flatbuffer's first 8 bytes: `eh00`, length, size of the program, start and size of the segments."""
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError)
"""What flatbuffers' functions raise on bytes that are not a flatbuffer."""


@dataclass(frozen=True)
class PteFile:
    """An opened file.

    Attributes:
        program: its flatbuffer.
        segments: the bytes behind the flatbuffer: weights, data of delegates, named blobs.
    """

    program: Program
    segments: memoryview

    def segment(self, number: int) -> memoryview:
        offset, size = self.program.segments[number]
        return self.segments[offset : offset + size]

    @property
    def metadata(self) -> bytes | None:
        """Our JSON; None if the file has none."""
        number = self.program.named_data.get(METADATA_NAME)
        return None if number is None else bytes(self.segment(number))


def weights_file(path: Path) -> Path:
    """The second file of `--external-weights`."""
    return path.with_suffix(WEIGHTS_SUFFIX)


@contextmanager
def reading(path: Path) -> Iterator[PteFile]:
    """Open a file, memory-mapped.

    Raises:
        ArtifactError: it is not a `.pte` file, is of another version of the format, is cut off or is otherwise damaged.
    """
    require_file(path, "an ExecuTorch program")
    with open_file(path) as file:
        head = file.read(8 + _HEADER.size)
        identifier = head[4:8]
        if len(head) < 8 or identifier[:2] != IDENTIFIER[:2]:
            raise ArtifactError(
                f"{path} is not an ExecuTorch program: it lacks the identifier {IDENTIFIER.decode()} of a .pte file",
                hint="name a .pte file, or export it again",
            )
        if identifier != IDENTIFIER:
            raise ArtifactError(
                f"{path} has version {identifier.decode(errors='replace')} of the format, and only "
                f"{IDENTIFIER.decode()} is supported",
                hint="install the version of timmx-executorch that it was exported with, or export it again",
            )
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
                program_size, start, size = _layout(head, len(view))
                if max(program_size, start + size) > len(view):
                    raise ValueError(
                        f"it is cut off: it has {len(view)} of {max(program_size, start + size)} bytes"
                    )
                with view[:program_size] as flatbuffer, view[start : start + size] as segments:
                    yield PteFile(Program.root(flatbuffer), segments)
        except _DAMAGE as exc:
            raise ArtifactError(
                f"{path} is damaged: {exc}", hint="export it again, or copy it again"
            ) from exc


def _layout(head: bytes, length: int) -> tuple[int, int, int]:
    """The size of the flatbuffer, and start and size of the segments, in bytes."""
    if len(head) < 8 + _HEADER.size:
        raise ValueError(f"it is cut off: it has {length} bytes")
    if head[8:12] != b"eh00":
        return length, length, 0  # a program without segments
    _, header_length, program_size, start, size = _HEADER.unpack_from(head, 8)
    return (
        program_size,
        start or program_size,
        size if header_length >= _HEADER.size else max(0, length - start),
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in the file, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not a `.pte` file, or its weights are of another one.
    """
    content = read_content(path)
    companions = _companions(content)
    if companions is not None:
        check_companion(path, weights_file(path), str(companions.get(WEIGHTS_SUFFIX, "")))
    return content


def weights_of(path: Path, content: dict[str, Any]) -> Path | None:
    """The file next to it with its weights; None if there is none, or if timmx wrote the weights into the file itself.

    Args:
        content: the metadata in the file.
    """
    data = weights_file(path)
    is_used = not content or _companions(content) is not None
    return data if is_used and data.exists() else None


def read_content(path: Path) -> dict[str, Any]:
    """`read_metadata`, without a look at the file with its weights."""
    with reading(path) as file:
        text = file.metadata
        return {} if text is None else parse_json_object(path, text)


def _companions(content: dict[str, Any]) -> dict[str, Any] | None:
    facts = content.get("format")
    companions = facts.get("companions") if isinstance(facts, dict) else None
    return companions if isinstance(companions, dict) else None
