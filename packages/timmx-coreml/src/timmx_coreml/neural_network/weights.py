"""Reads the weights of a layer, in all forms of the format, as float32 tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def read_weights(message: Any, shape: Sequence[int], channel_axis: int = 0) -> torch.Tensor:
    """Return a `WeightParams` message as a float32 tensor.

    Args:
        message: stored as floatValue, as float16Value, or as rawValue with linear or lookup-table quantization.
        shape: the declared shape of the weights.
        channel_axis: the axis that may have a scale and a bias per index in linear quantization.

    Raises:
        ValueError: the contents do not fit the shape, or are inconsistent.
        NotImplementedError: the form is defined by Apple's kernels only.
    """
    shape = tuple(int(size) for size in shape)
    forms = [
        form for form in ("floatValue", "float16Value", "rawValue", "int8RawValue") if getattr(message, form)
    ]
    if len(forms) > 1:
        raise ValueError(f"is stored twice, as {' and '.join(forms)}")
    if not forms:
        if math.prod(shape) == 0:
            return torch.zeros(shape)
        raise ValueError(f"is empty, but {_count(shape)} are declared")
    if forms == ["int8RawValue"]:
        raise NotImplementedError("int8RawValue (int8DynamicQuantize)")
    if forms == ["rawValue"]:
        return torch.from_numpy(_dequantize(message, shape, channel_axis))
    values = _floats(message) if forms == ["floatValue"] else _halves(message.float16Value)
    if values.size != math.prod(shape):
        raise ValueError(f"holds {values.size} numbers, but {_count(shape)} are declared")
    # A copy, because frombuffer's arrays are read-only; halves are copied by astype.
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def _floats(message: Any) -> NDArray[np.float32]:
    """Read `floatValue` without a Python object per number: 25 million of them (resnet50) take 0.1 s, not 2 s."""
    stored = type(message)()
    # A message with the one field serializes to its tag (field 1, packed: 0x0a), a varint length, and the floats.
    stored.floatValue.MergeFrom(message.floatValue)
    payload = 4 * len(message.floatValue)
    return np.frombuffer(memoryview(stored.SerializeToString())[-payload:], dtype="<f4")


def _halves(stored: bytes) -> NDArray[np.float16]:
    if len(stored) % 2:
        raise ValueError(f"holds {len(stored)} bytes of float16, an odd number")
    return np.frombuffer(stored, dtype="<f2")


def _dequantize(message: Any, shape: tuple[int, ...], channel_axis: int) -> NDArray[np.float32]:
    """Dequantize weights of 1 to 8 bits, most significant bit first, across byte boundaries."""
    quantization = message.quantization
    bits = quantization.numberOfBits
    if not 1 <= bits <= 8:
        raise ValueError(f"is quantized to {bits} bits instead of 1 to 8")
    count = math.prod(shape)
    needed = math.ceil(count * bits / 8)
    if len(message.rawValue) != needed:
        raise ValueError(
            f"holds {len(message.rawValue)} bytes, but {_count(shape)} at {bits} bits need {needed}"
        )
    stored = np.frombuffer(message.rawValue, dtype=np.uint8)
    if bits < 8:
        places = 1 << np.arange(bits - 1, -1, -1)
        stored = (np.unpackbits(stored)[: count * bits].reshape(-1, bits) @ places).astype(np.uint8)
    codes = stored.reshape(shape)
    form = quantization.WhichOneof("QuantizationType")
    if form == "lookupTableQuantization":
        table = np.array(quantization.lookupTableQuantization.floatValue, dtype=np.float32)
        if table.size != 2**bits:
            raise ValueError(f"has a lookup table of {table.size} entries, but {bits} bits need {2**bits}")
        return np.asarray(table[codes], dtype=np.float32)
    if form == "linearQuantization":
        scale = _by_channel(quantization.linearQuantization.scale, "scales", shape, channel_axis)
        bias = _by_channel(quantization.linearQuantization.bias, "biases", shape, channel_axis)
        return np.asarray(codes.astype(np.float32) * scale + bias, dtype=np.float32)
    raise ValueError("is quantized, but neither linearly nor by a lookup table")


def _by_channel(stored: Any, what: str, shape: tuple[int, ...], axis: int) -> NDArray[np.float32]:
    values = np.array(stored, dtype=np.float32)
    if values.size == 1:
        return values.reshape(())
    if not shape or values.size != shape[axis]:
        raise ValueError(f"has {values.size} {what} instead of 1 or {shape[axis] if shape else 1}")
    return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _count(shape: tuple[int, ...]) -> str:
    return f"{math.prod(shape)} numbers ({' x '.join(map(str, shape)) or 'a scalar'})"
