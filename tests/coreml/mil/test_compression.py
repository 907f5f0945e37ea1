"""Compressed weights have the dense values of coremltools' decompression."""

from __future__ import annotations

import numpy as np
import pytest
from mil_programs import open_package, program, save

_RNG = np.random.default_rng(4)


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack lowest bit first, without gaps, as MIL's iOS 16 form requires."""
    bits_of_values = (values.reshape(-1, 1) >> np.arange(bits)) & 1
    return np.packbits(bits_of_values.reshape(-1).astype(np.uint8), bitorder="little")


def integers(name: str, *shape: int) -> np.ndarray:
    """Random values of one of MIL's integer types, including the smallest and the largest."""
    from coremltools.converters.mil.mil import types

    kind = types.string_to_builtin(name)
    bits, signed = kind.get_bitwidth(), not kind.is_unsigned()
    low = -(1 << (bits - 1)) if signed else 0
    values = _RNG.integers(low, low + (1 << bits), size=shape)
    values.flat[:2] = low, low + (1 << bits) - 1
    return values.astype(types.nptype_from_builtin(kind))


def floats(dtype: str, *shape: int) -> np.ndarray:
    return (_RNG.normal(size=shape) * 0.1).astype(dtype)


def affine(mb, data: str, dtype: str, vector: bool):
    sizes = (5,) if vector else ()
    return mb.constexpr_affine_dequantize(
        quantized_data=integers(data, 3, 5, 2),
        zero_point=integers(data, 5) if vector else integers(data, 2)[1],
        scale=np.abs(floats(dtype, *sizes)) if vector else np.dtype(dtype).type(0.07),
        axis=np.int32(-2 if vector else 0),
    )


def old_lut(mb, bits: int, dtype: str):
    indices = pack(_RNG.integers(0, 1 << bits, size=33), bits)
    return mb.constexpr_lut_to_dense(
        indices=indices, lut=floats(dtype, 1 << bits), shape=np.array([3, 11], np.uint32)
    )


def old_sparse(mb, dtype: str):
    mask = _RNG.random(33) < 0.4
    return mb.constexpr_sparse_to_dense(
        nonzero_data=floats(dtype, int(mask.sum())),
        mask=pack(mask.astype(np.uint8), 1),
        shape=np.array([11, 3], np.uint32),
    )


def blockwise(mb, data: str, dtype: str, offset: str | None):
    """Blocks of 3 and 2 along the first two dimensions, one scale for all of the last."""
    options = (
        {}
        if offset is None
        else {"offset": integers(offset, 2, 4, 1) if "int" in offset else floats(offset, 2, 4, 1)}
    )
    return mb.constexpr_blockwise_shift_scale(
        data=integers(data, 6, 8, 5), scale=np.abs(floats(dtype, 2, 4, 1)), **options
    )


def lut(mb, indices: str, dtype: str, vector: int, axis: int | None):
    entries = 1 << int(indices.removeprefix("uint"))
    table = (
        integers("int8", 3, 1, 2, entries, vector)
        if dtype == "int8"
        else floats(dtype, 3, 1, 2, entries, vector)
    )
    options = {} if axis is None else {"vector_axis": np.int32(axis)}
    return mb.constexpr_lut_to_dense(indices=integers(indices, 6, 5, 4), lut=table, **options)


def mask_of(*shape: int) -> np.ndarray:
    from coremltools.converters.mil.mil import types

    return (_RNG.random(shape) < 0.4).astype(types.nptype_from_builtin(types.uint1))


def sparse(mb, data: str):
    mask = mask_of(5, 7)
    count = int(mask.astype(np.int64).sum())
    values = floats(data, count) if "float" in data else integers(data, count)
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


def sparse_lut(mb, indices: str, vector: int):
    mask = mask_of(6, 4)
    entries = 1 << int(indices.removeprefix("uint"))
    options = {} if vector == 1 else {"vector_axis": np.int32(1)}
    mask, values = mb.constexpr_lut_to_sparse(
        indices_mask=mask,
        indices_nonzero_data=integers(indices, int(mask.astype(np.int64).sum())),
        lut=floats("float16", 2, 1, entries, vector),
        **options,
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


def sparse_blockwise(mb, data: str):
    mask = mask_of(6, 4)
    mask, values = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=mask,
        nonzero_data=integers(data, int(mask.astype(np.int64).sum())),
        scale=np.abs(floats("float16", 6, 2)),
        offset=integers(data, 6, 2),
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


def lut_then_scale(mb):
    """Palettes of 8-bit values with a scale per row: twice compressed."""
    table = lut(mb, "uint4", "int8", 1, None)
    return mb.constexpr_blockwise_shift_scale(data=table, scale=np.abs(floats("float16", 6, 1, 1)))


def sparse_then_scale(mb, data: str):
    return mb.constexpr_blockwise_shift_scale(data=sparse(mb, data), scale=np.abs(floats("float32", 5, 1)))


IOS16 = {
    **{
        f"affine-{d}-{f}-{v}": (affine, d, f, v)
        for d in ("int8", "uint8")
        for f in ("float16", "float32")
        for v in (0, 1)
    },
    **{f"lut-{bits}-{f}": (old_lut, bits, f) for bits in (1, 2, 4, 6, 8) for f in ("float16", "float32")},
    "sparse-float16": (old_sparse, "float16"),
    "sparse-float32": (old_sparse, "float32"),
    "cast": (lambda mb: mb.constexpr_cast(source_val=floats("float16", 3, 4), output_dtype="fp32"),),
}
IOS18 = {
    **{
        f"blockwise-{d}-{f}-{o}": (blockwise, d, f, o and (d if o == "same" else f))
        for d in ("int4", "uint4", "int8", "uint8")
        for f in ("float16", "float32")
        for o in (None, "same", "float")
    },
    **{
        f"lut-uint{bits}-{f}": (lut, f"uint{bits}", f, 1, None)
        for bits in (1, 2, 3, 4, 6, 8)
        for f in ("float16", "float32")
    },
    **{f"lut-vector-{axis}": (lut, "uint3", "float16", 2, axis) for axis in (0, 1, -1)},
    **{f"sparse-{d}": (sparse, d) for d in ("int8", "uint8", "float16", "float32")},
    **{f"lut-to-sparse-{n}-{v}": (sparse_lut, f"uint{n}", v) for n in (2, 3, 4, 6, 8) for v in (1, 2)},
    **{f"sparse-blockwise-{d}": (sparse_blockwise, d) for d in ("int4", "int8", "uint8")},
    "cast": (lambda mb: mb.constexpr_cast(source_val=floats("float16", 3, 4), output_dtype="fp32"),),
    "lut-then-scale": (lut_then_scale,),
    **{f"sparse-then-scale-{d}": (sparse_then_scale, d) for d in ("int4", "uint4", "int8", "uint8")},
}
FORMS = [*(("iOS16", name) for name in IOS16), *(("iOS18", name) for name in IOS18)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Pairs of computed and coremltools' dense values by form."""
    import torch

    pairs = {}
    for target, forms in (("iOS16", IOS16), ("iOS18", IOS18)):
        expected = {}

        def build(mb, x):
            outputs = []
            for index, (name, (build_weight, *options)) in enumerate(forms.items()):  # noqa: B023
                weight = build_weight(mb, *options)
                dense = weight.op.materialized_val_inference()
                expected[name] = f"form{index}", dense  # noqa: B023
                if dense.dtype.kind != "f":
                    weight = mb.cast(x=weight, dtype="int32")
                outputs.append(mb.identity(x=weight, name=f"form{index}"))
            return [*outputs, mb.identity(x=x, name="same")]

        path = tmp_path_factory.mktemp("mil") / f"{target}.mlpackage"
        save(program(build, {"x": (1,)}, target), path, target)
        computed = open_package(path).run({"x": torch.zeros(1)})
        pairs |= {(target, name): (computed[out].numpy(), value) for name, (out, value) in expected.items()}
    return pairs


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_dense_value(form, results):
    computed, expected = results[form]
    assert computed.shape == expected.shape
    # coremltools rounds the difference from a float16 offset to float16, timmx does not.
    tolerances = {"rtol": 2e-3, "atol": 1e-3} if form[1].endswith("float16-float") else {"rtol": 0}
    np.testing.assert_allclose(computed, expected.astype(computed.dtype), **tolerances)
