"""The tables of a `.pte` file that timmx reads, by the field numbers of `executorch/schema/program.fbs` (1.5).

ExecuTorch's own Python modules for them are below `executorch.exir`, whose import takes torch with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from flatbuffers import encode, packer
from flatbuffers.table import Table

IDENTIFIER = b"ET12"
INLINE, SEGMENT = 0, 1
"""Where the data of a delegate is: in the program, or in a segment."""
TENSOR = 5
"""The kind of a value that is a tensor, in the union `KernelTypes`."""
KERNEL_CALL, DELEGATE_CALL = 1, 2
"""Kinds of instructions, in the union `InstructionArguments`."""
DYNAMIC_BOUND = 1
"""A tensor whose sizes are upper bounds, in the enumeration `TensorShapeDynamism`."""
SCALAR_TYPES = {
    0: "uint8",
    1: "int8",
    2: "int16",
    3: "int32",
    4: "int64",
    5: "float16",
    6: "float32",
    7: "float64",
}
"""numpy's names of PyTorch's scalar types."""

_MOST = 10_000_000
"""Entries of a list: a flatbuffer can state a long list of one small entry."""


@dataclass(frozen=True)
class Record:
    """One table of a flatbuffer.

    Attributes:
        content: the whole flatbuffer.
        position: where the table starts.
    """

    content: Any
    position: int

    @classmethod
    def root(cls, content: Any) -> Self:
        return cls(content, encode.Get(packer.uoffset, content, 0))

    def number(self, field: int, form: Any = packer.uint32, default: int = 0) -> int:
        """A number; `form` is its type in `flatbuffers.packer`."""
        offset = self._offset(field)
        return int(encode.Get(form, self.content, self.position + offset)) if offset else default

    def text(self, field: int) -> str:
        return self.octets(field).decode(errors="replace")

    def octets(self, field: int) -> bytes:
        """A string or a list of bytes; empty if it is missing."""
        offset = self._offset(field)
        if not offset:
            return b""
        start = self.position + offset
        start += encode.Get(packer.uoffset, self.content, start)
        length = encode.Get(packer.uoffset, self.content, start)
        data = bytes(self.content[start + 4 : start + 4 + length])
        if len(data) != length:
            raise ValueError(f"a text of {length} bytes after the end")
        return data

    def record(self, field: int) -> Record | None:
        offset = self._offset(field)
        if not offset:
            return None
        start = self.position + offset
        return Record(self.content, start + encode.Get(packer.uoffset, self.content, start))

    def records(self, field: int) -> list[Record]:
        return [
            Record(self.content, at + encode.Get(packer.uoffset, self.content, at))
            for at in self._items(field, 4)
        ]

    def numbers(self, field: int, form: Any = packer.int32, size: int = 4) -> list[int]:
        """A list of numbers of `size` bytes each."""
        return [int(encode.Get(form, self.content, at)) for at in self._items(field, size)]

    def _items(self, field: int, size: int) -> range:
        table = Table(self.content, self.position)
        offset = self._offset(field)
        if not offset:
            return range(0)
        count, start = table.VectorLen(offset), table.Vector(offset)
        if count > _MOST or start + count * size > len(self.content):
            raise ValueError(f"a list of {count} entries")
        return range(start, start + count * size, size)

    def _offset(self, field: int) -> int:
        return int(Table(self.content, self.position).Offset(4 + 2 * field))


class Program(Record):
    """The root table."""

    @property
    def plans(self) -> list[Plan]:
        """The methods."""
        return [Plan(entry.content, entry.position) for entry in self.records(1)]

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Offset from the start of all segments, and size, in bytes."""
        return [(entry.number(0, packer.uint64), entry.number(1, packer.uint64)) for entry in self.records(4)]

    @property
    def named_data(self) -> dict[str, int]:
        """The segment of each named blob."""
        return {entry.text(0): entry.number(1) for entry in self.records(7)}


class Plan(Record):
    """A method: its values, and what computes them."""

    @property
    def name(self) -> str:
        return self.text(0)

    @property
    def inputs(self) -> list[Tensor]:
        return self._tensors(3)

    @property
    def outputs(self) -> list[Tensor]:
        return self._tensors(4)

    @property
    def operators(self) -> list[str]:
        """Names with their overload, such as `aten::convolution.out`."""
        return [
            ".".join(part for part in (entry.text(0), entry.text(1)) if part) for entry in self.records(6)
        ]

    @property
    def delegates(self) -> list[DelegateCall]:
        return [DelegateCall(entry.content, entry.position) for entry in self.records(7)]

    @property
    def calls(self) -> list[tuple[int, int]]:
        """The instructions in order: kind, and the number of the operator or delegate that it calls."""
        found = []
        for chain in self.records(5):
            for entry in chain.records(2):
                call = entry.record(1)
                found.append(
                    (entry.number(0, packer.uint8), 0 if call is None else call.number(0, packer.int32))
                )
        return found

    def _tensors(self, field: int) -> list[Tensor]:
        values = self.records(2)
        found = []
        for index in self.numbers(field):
            value = values[index]
            tensor = value.record(1)
            if value.number(0, packer.uint8) != TENSOR or tensor is None:
                raise ValueError(f"the value {index} is not a tensor")
            found.append(Tensor(tensor.content, tensor.position))
        return found


class Tensor(Record):
    """A tensor's type and sizes."""

    @property
    def dtype(self) -> str:
        return SCALAR_TYPES.get(self.number(0, packer.int8), "unknown")

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.numbers(2))

    @property
    def shape(self) -> tuple[int | str, ...]:
        """The sizes; the first one is `batch` if they are upper bounds."""
        return ("batch", *self.sizes[1:]) if self.dynamic and self.sizes else self.sizes

    @property
    def dynamic(self) -> bool:
        return self.number(8, packer.int8) == DYNAMIC_BOUND


class DelegateCall(Record):
    """What a delegate computes, in a form of its own."""

    @property
    def backend(self) -> str:
        """The delegate's name, such as `XnnpackBackend`."""
        return self.text(0)

    @property
    def data(self) -> tuple[int, int]:
        """`INLINE` or `SEGMENT`, and the number of the data there."""
        reference = self.record(1)
        return (INLINE, 0) if reference is None else (reference.number(0, packer.int8), reference.number(1))
