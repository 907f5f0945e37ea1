"""MIL's compressed weights: each `constexpr_*` operation returns the dense values, not yet rounded.

Since iOS 18 the same operations have other parameters; the ones that are set show the version.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from timmx_coreml.mil.blobs import unpack_bits
from timmx_coreml.mil.operations.quantization import along
from timmx_coreml.mil.operations.registry import Ints, operation


@operation(result="scale", raw=True)
def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int
) -> Tensor:
    rank = quantized_data.ndim
    steps = quantized_data.float() - along(zero_point, rank, axis).float()
    return steps * along(scale, rank, axis).float()


@operation(result="output_dtype", raw=True)
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    return source_val


@operation(result="scale", raw=True)
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    steps = data.float()
    if offset is not None:
        steps = steps - _in_blocks(offset.float(), data.shape)
    return steps * _in_blocks(scale.float(), data.shape)


@operation(result="lut", raw=True)
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    if shape is None:
        return _look_up(indices, lut, vector_axis)
    bits = lut.numel().bit_length() - 1
    if 1 << bits != lut.numel():
        raise ValueError(f"a table of {lut.numel()} values, which is not a power of 2")
    count = math.prod(shape)
    if len(indices) != -(-count * bits // 8):
        raise ValueError(f"{len(indices)} bytes of indices for {count} of {bits} bits")
    places = unpack_bits(indices.numpy(), bits, count)
    return lut[torch.from_numpy(places).long()].reshape(shape)


@operation(result="nonzero_data", raw=True)
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    if shape is not None:
        count = math.prod(shape)
        bits = np.unpackbits(mask.numpy(), bitorder="little")
        if len(bits) < count or bits[count:].any():
            raise ValueError(f"a mask of {len(mask)} bytes for {count} elements")
        mask = torch.from_numpy(bits[:count].copy()).reshape(shape)
    return _spread(nonzero_data, mask)


@operation(result=(torch.uint8, "lut"), raw=True)
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    dense = _look_up(_spread(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if vector_axis is not None:
        mask = mask.repeat_interleave(lut.shape[-1], vector_axis)
    return mask, dense[mask != 0]


@operation(result=(torch.uint8, "scale"), raw=True)
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    dense = constexpr_blockwise_shift_scale(_spread(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def _in_blocks(parameter: Tensor, shape: torch.Size) -> Tensor:
    """Repeat one value per block to one per element of a tensor of this shape; size 1 is broadcast."""
    if parameter.ndim != len(shape):
        raise ValueError(f"{parameter.ndim} dimensions of scales for {len(shape)} of values")
    for axis, (size, blocks) in enumerate(zip(shape, parameter.shape, strict=True)):
        if blocks == 0 or size % blocks:
            raise ValueError(f"{size} elements in {blocks} blocks")
        if 1 < blocks < size:
            parameter = parameter.repeat_interleave(size // blocks, axis)
    return parameter


def _look_up(indices: Tensor, lut: Tensor, vector_axis: int | None) -> Tensor:
    """Look values up; lut is (blocks of each dimension..., table entries, vector)."""
    entries, vector = lut.shape[-2:]
    if lut.ndim != indices.ndim + 2 or (vector > 1 and vector_axis is None):
        raise ValueError(f"tables {tuple(lut.shape)} for indices {tuple(indices.shape)}")
    # The table of each element, then its index into all tables concatenated.
    tables = torch.arange(math.prod(lut.shape[:-2])).reshape(lut.shape[:-2])
    places = _in_blocks(tables, indices.shape) * entries + indices.long()
    values = lut.reshape(-1, vector)[places]
    if vector == 1:
        return values.squeeze(-1)
    axis = (vector_axis or 0) % indices.ndim
    return values.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    selected = mask != 0
    if int(selected.sum()) != values.numel():
        raise ValueError(f"{values.numel()} values for {int(selected.sum())} places")
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    dense[selected] = values
    return dense
