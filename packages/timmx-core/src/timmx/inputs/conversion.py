"""What an artifact's edges hold, from and to float32: axes in another order, bytes of pixels, quantized numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from timmx.errors import VerificationError

if TYPE_CHECKING:
    from timmx.contract import Quantization, TensorSpec


def feed(spec: TensorSpec, inputs: np.ndarray) -> np.ndarray:
    """Inputs as an artifact takes them.

    Args:
        spec: of the artifact's input.
        inputs: (N, C, H, W) float32; for bytes of pixels in [0, 1].

    Returns:
        A contiguous array in the spec's layout and element type. Whole numbers are rounded and clipped.

    Raises:
        VerificationError: the input takes whole numbers, and the spec does not say what they stand for.
    """
    if spec.layout == "NHWC":
        inputs = inputs.transpose(0, 2, 3, 1)
    if spec.quantization is not None:
        inputs = _quantize(inputs, spec.quantization, spec.dtype)
    elif spec.dtype == "uint8":  # whole pixel values, where the inputs are shares of 255
        inputs = np.rint(255 * inputs).astype(np.uint8)
    elif spec.dtype.startswith(("int", "uint")):
        raise VerificationError(
            f"the artifact's input {spec.name!r} is {spec.dtype} without a quantization: what its numbers stand for is "
            "unknown"
        )
    return np.ascontiguousarray(inputs)


def fetch(spec: TensorSpec, output: np.ndarray) -> np.ndarray:
    """An output in real numbers: whole ones are multiplied out, others are left as they are.

    Args:
        spec: of the artifact's output.
        output: what its runtime gave.
    """
    if spec.quantization is None or str(output.dtype) != spec.dtype:
        return output
    scale, zero_point = np.float32(spec.quantization.scale), spec.quantization.zero_point
    return scale * (output.astype(np.float32) - np.float32(zero_point))


def _quantize(values: np.ndarray, quantization: Quantization, dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    stored = np.rint(values / np.float32(quantization.scale)) + quantization.zero_point
    return np.clip(stored, limits.min, limits.max).astype(dtype)
