"""MIL's data types: names, torch dtypes and storage in files."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from timmx_coreml.errors import not_evaluated


@dataclass(frozen=True, kw_only=True)
class DataType:
    """A data type of tensors.

    Attributes:
        name: MIL's name, for messages.
        torch: the dtype in memory; types smaller than one byte take one byte per element.
        bits: the size of an element in a file.
        blob_code: the code in a weight file's records; None if weight files cannot store the type.
        field: the field of `TensorValue` that stores small values in the program.
    """

    name: str
    torch: torch.dtype
    bits: int
    blob_code: int | None
    field: str


STRING = 2
"""MIL's code for strings, which are not tensors here."""

_DATA_TYPES = {
    1: DataType(name="bool", torch=torch.bool, bits=8, blob_code=None, field="bools"),
    10: DataType(name="fp16", torch=torch.float16, bits=16, blob_code=1, field="bytes"),
    11: DataType(name="fp32", torch=torch.float32, bits=32, blob_code=2, field="floats"),
    21: DataType(name="int8", torch=torch.int8, bits=8, blob_code=4, field="bytes"),
    22: DataType(name="int16", torch=torch.int16, bits=16, blob_code=6, field="ints"),
    23: DataType(name="int32", torch=torch.int32, bits=32, blob_code=14, field="ints"),
    24: DataType(name="int64", torch=torch.int64, bits=64, blob_code=None, field="longInts"),
    25: DataType(name="int4", torch=torch.int8, bits=4, blob_code=8, field="bytes"),
    31: DataType(name="uint8", torch=torch.uint8, bits=8, blob_code=3, field="bytes"),
    32: DataType(name="uint16", torch=torch.uint16, bits=16, blob_code=7, field="ints"),
    33: DataType(name="uint32", torch=torch.uint32, bits=32, blob_code=15, field="bytes"),
    35: DataType(name="uint4", torch=torch.uint8, bits=4, blob_code=11, field="bytes"),
    36: DataType(name="uint2", torch=torch.uint8, bits=2, blob_code=10, field="bytes"),
    37: DataType(name="uint1", torch=torch.uint8, bits=1, blob_code=9, field="bytes"),
    38: DataType(name="uint6", torch=torch.uint8, bits=6, blob_code=13, field="bytes"),
    39: DataType(name="uint3", torch=torch.uint8, bits=3, blob_code=12, field="bytes"),
}
_BY_NAME = {data_type.name: data_type.torch for data_type in _DATA_TYPES.values() if data_type.bits >= 8}


def data_type(code: int, where: str) -> DataType:
    """Return the data type with MIL's number `code`; `where` names its owner in messages."""
    if code not in _DATA_TYPES:
        raise not_evaluated(f"timmx cannot evaluate {where}: it has the MIL data type {code}")
    return _DATA_TYPES[code]


def dtype_named(name: str, where: str) -> torch.dtype:
    """Return the dtype that a parameter such as `cast`'s `dtype` names."""
    if name not in _BY_NAME:
        raise not_evaluated(f"timmx cannot evaluate {where}: it needs the data type {name!r}")
    return _BY_NAME[name]
