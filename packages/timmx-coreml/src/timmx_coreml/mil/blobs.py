"""MIL's weight files: records are checked, data is memory-mapped. `blob_layout.py` describes the layout."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from timmx.plugin import open_file

from timmx_coreml.blob_layout import ALIGNMENT, HEADER, RECORD, SENTINEL, VERSION, blob_path
from timmx_coreml.errors import damaged

if TYPE_CHECKING:
    from pathlib import Path

    from timmx.plugin import ArtifactError

    from timmx_coreml.mil.data_types import DataType


@dataclass(frozen=True)
class Blob:
    """The checked data of one record; `tensor()` reads it.

    Attributes:
        file: the mapped weight file.
        offset: of the data, in bytes.
        shape: as declared by the program.
        data_type: as declared by the program and the record.
    """

    file: mmap.mmap
    offset: int
    shape: tuple[int, ...]
    data_type: DataType

    def tensor(self) -> torch.Tensor:
        """Return the values: a view of the file, or a copy if elements are smaller than one byte."""
        count = math.prod(self.shape)
        if self.data_type.bits < 8:
            size = -(-count * self.data_type.bits // 8)
            packed = np.frombuffer(self.file, np.uint8, size, self.offset)
            return unpack(packed, self.data_type, count).reshape(self.shape)
        if count == 0:
            return torch.empty(self.shape, dtype=self.data_type.torch)
        flat = torch.frombuffer(self.file, dtype=self.data_type.torch, count=count, offset=self.offset)
        return flat.reshape(self.shape)


class WeightFiles:
    """The weight files of a program, each mapped once.

    Args:
        folder: the folder that `@model_path` stands for; None if there is none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._files: dict[str, mmap.mmap] = {}
        self._offsets: dict[str, set[int]] = {}

    def blob(self, name: str, offset: int, shape: tuple[int, ...], data_type: DataType, where: str) -> Blob:
        """Return the data of the record at `offset` of the file that the program calls `name`.

        Raises:
            ArtifactError: the file is missing, truncated or not a weight file, or has other data there.
        """
        file = self._file(name, where)

        def wrong(what: str) -> ArtifactError:
            return damaged(f"the weights of {where} in {name} {what}")

        if offset % ALIGNMENT or offset < ALIGNMENT or offset + RECORD.size > len(file):
            raise wrong(f"should be at byte {offset}, but the file has {len(file)} bytes")
        sentinel, code, size, start, unused = RECORD.unpack_from(file, offset)
        if sentinel != SENTINEL:
            raise wrong(f"should be at byte {offset}, but no record begins there")
        if code != data_type.blob_code:
            raise wrong(f"should be {data_type.name}, but the file has data of type {code} there")
        bits = math.prod(shape) * data_type.bits
        if size != -(-bits // 8) or (data_type.bits < 8 and unused != size * 8 - bits):
            raise wrong(f"should have {bits} bits, but the file has {size} bytes")
        if start % ALIGNMENT or start < offset + ALIGNMENT or start + size > len(file):
            raise wrong(f"should end at byte {start + size}, but the file has {len(file)} bytes")
        self._offsets[name].add(offset)
        if len(self._offsets[name]) > HEADER.unpack_from(file)[0]:
            raise wrong("are in a record that the file's header does not count")
        return Blob(file, start, shape, data_type)

    def _file(self, name: str, where: str) -> mmap.mmap:
        if name not in self._files:
            self._files[name] = self._open(name, where)
            self._offsets[name] = set()
        return self._files[name]

    def _open(self, name: str, where: str) -> mmap.mmap:
        path = blob_path(self._folder, name, where)
        with open_file(path) as stream:
            # Copy-on-write because torch warns about read-only buffers; nothing is written.
            file = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        version = HEADER.unpack_from(file)[1]
        if version != VERSION:
            raise damaged(f"{path} is not a weight file of version {VERSION}: its version is {version}")
        return file


def unpack(packed: np.ndarray, data_type: DataType, count: int) -> torch.Tensor:
    """Unpack elements smaller than one byte to one byte each.

    Args:
        packed: uint8, one dimension, lowest bit first.
        data_type: the elements' data type.
        count: the number of elements.
    """
    elements = unpack_bits(packed, data_type.bits, count)
    if data_type.torch == torch.int8:  # sign-extend
        sign = 1 << (data_type.bits - 1)
        return torch.from_numpy((elements ^ sign).view(np.int8) - np.int8(sign))
    return torch.from_numpy(elements)


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpack unsigned elements of 1 to 8 bits to one uint8 each."""
    if bits == 8:
        return packed[:count].copy()
    elements = np.zeros(count, np.uint8)
    # Elements that start at the same bit of a byte are unpacked together: at most 8 strides.
    period = 8 // np.gcd(bits, 8)
    step = period * bits // 8
    padded = np.append(packed, np.uint8(0))
    for index in range(min(period, count)):
        byte, shift = divmod(index * bits, 8)
        wide = padded[byte::step][: -(-(count - index) // period)].astype(np.uint16)
        if shift + bits > 8:
            wide |= padded[byte + 1 :: step][: len(wide)].astype(np.uint16) << 8
        elements[index::period] = (wide >> shift) & ((1 << bits) - 1)
    return elements
