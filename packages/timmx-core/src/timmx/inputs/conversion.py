"""Converts between float32 and the inputs and outputs of an artifact: NHWC, bytes of pixels, quantized integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from timmx.errors import VerificationError

if TYPE_CHECKING:
    from timmx.contract import Quantization, TensorSpec


def feed(spec: TensorSpec, inputs: np.ndarray) -> np.ndarray:
    """Convert float inputs to the artifact's layout and element type.

    Args:
        spec: the artifact's input.
        inputs: (N, C, H, W) float32; in [0, 1] if the artifact takes bytes of pixels.

    Returns:
        A contiguous array in the spec's layout and element type. Integers are rounded and clipped.

    Raises:
        VerificationError: the input takes integers, and the spec has no quantization.
    """
    if spec.layout == "NHWC":
        inputs = inputs.transpose(0, 2, 3, 1)
    if spec.quantization is not None:
        inputs = _quantize(inputs, spec.quantization, spec.dtype)
    elif spec.dtype == "uint8":  # pixel values from 0 to 255
        inputs = np.rint(255 * inputs).astype(np.uint8)
    elif spec.dtype.startswith(("int", "uint")):
        raise VerificationError(
            f"the artifact's input {spec.name!r} is {spec.dtype} without a quantization, so its scale is unknown"
        )
    return np.ascontiguousarray(inputs)


def fetch(spec: TensorSpec, output: np.ndarray) -> np.ndarray:
    """Convert an output to real numbers: quantized integers are dequantized, other outputs are unchanged.

    Args:
        spec: the artifact's output.
        output: the array from its runtime.
    """
    if spec.quantization is None or str(output.dtype) != spec.dtype:
        return output
    scale, zero_point = np.float32(spec.quantization.scale), spec.quantization.zero_point
    return scale * (output.astype(np.float32) - np.float32(zero_point))


def _quantize(values: np.ndarray, quantization: Quantization, dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    stored = np.rint(values / np.float32(quantization.scale)) + quantization.zero_point
    return np.clip(stored, limits.min, limits.max).astype(dtype)
