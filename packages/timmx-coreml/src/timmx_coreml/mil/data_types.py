"""MIL's data types: what each is called, how torch holds it, and how a file stores it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from timmx_coreml.errors import not_evaluated


@dataclass(frozen=True)
class DataType:
    """One data type of tensors.

    Attributes:
        name: as MIL's own text calls it, for messages.
        torch: what holds a value; the types below one byte are held in one byte an element.
        bits: of an element in a file.
        blob_code: in a weight file's records; None where weight files hold no such data.
        field: of `TensorValue`, where small values stand in the program itself.
    """

    name: str
    torch: torch.dtype
    bits: int
    blob_code: int | None
    field: str


STRING = 2
"""MIL's code of strings, which are no tensors here."""

_DATA_TYPES = {
    1: DataType("bool", torch.bool, 8, None, "bools"),
    10: DataType("fp16", torch.float16, 16, 1, "bytes"),
    11: DataType("fp32", torch.float32, 32, 2, "floats"),
    21: DataType("int8", torch.int8, 8, 4, "bytes"),
    22: DataType("int16", torch.int16, 16, 6, "ints"),
    23: DataType("int32", torch.int32, 32, 14, "ints"),
    24: DataType("int64", torch.int64, 64, None, "longInts"),
    25: DataType("int4", torch.int8, 4, 8, "bytes"),
    31: DataType("uint8", torch.uint8, 8, 3, "bytes"),
    32: DataType("uint16", torch.uint16, 16, 7, "ints"),
    33: DataType("uint32", torch.uint32, 32, 15, "bytes"),
    35: DataType("uint4", torch.uint8, 4, 11, "bytes"),
    36: DataType("uint2", torch.uint8, 2, 10, "bytes"),
    37: DataType("uint1", torch.uint8, 1, 9, "bytes"),
    38: DataType("uint6", torch.uint8, 6, 13, "bytes"),
    39: DataType("uint3", torch.uint8, 3, 12, "bytes"),
}
_BY_NAME = {data_type.name: data_type.torch for data_type in _DATA_TYPES.values() if data_type.bits >= 8}


def data_type(code: int, where: str) -> DataType:
    """The data type with MIL's number `code`; `where` says in messages what has it."""
    if code not in _DATA_TYPES:
        raise not_evaluated(f"timmx cannot evaluate {where}: it has the MIL data type {code}")
    return _DATA_TYPES[code]


def dtype_named(name: str, where: str) -> torch.dtype:
    """The dtype that a parameter such as `cast`'s `dtype` spells out."""
    if name not in _BY_NAME:
        raise not_evaluated(f"timmx cannot evaluate {where}: it needs the data type {name!r}")
    return _BY_NAME[name]
