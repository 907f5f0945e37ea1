"""All forms of stored weights are read as coremltools writes them."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools import models
from coremltools.models.neural_network.quantization_utils import _dequantize_wp, _quantize_wp_field
from timmx_coreml.neural_network.weights import read_weights
from timmx_coreml.schema import schema

SHAPE = 6, 3, 5, 3
MODES = (
    models._QUANTIZATION_MODE_LINEAR_QUANTIZATION,
    models._QUANTIZATION_MODE_LINEAR_SYMMETRIC,
    models._QUANTIZATION_MODE_LOOKUP_TABLE_LINEAR,
)


def message(values):
    weights = schema("NeuralNetwork_pb2").WeightParams()
    weights.floatValue.extend(np.ravel(values).tolist())
    return weights


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("count", [1, 31, 32, 127, 128, 5000])
def test_float32_weights_of_any_number(count):
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    assert np.array_equal(read_weights(message(values), [count]), values)


def test_float16_weights(values):
    weights = message(values)
    _quantize_wp_field(weights, 16, None, SHAPE)
    assert not weights.floatValue
    assert np.array_equal(read_weights(weights, SHAPE), values.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [0, 1])
def test_quantized(values, bits, mode, axis):
    if bits == 1 and mode == models._QUANTIZATION_MODE_LINEAR_SYMMETRIC:
        pytest.skip("coremltools 9.0 divides by zero, and writes NaN as scale")
    weights = message(values)
    _quantize_wp_field(weights, bits, mode, SHAPE, axis)
    assert weights.rawValue
    result = read_weights(weights, SHAPE, axis)
    _dequantize_wp(weights, SHAPE, axis)
    assert np.allclose(result.flatten(), weights.floatValue, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_quantized_vectors_have_one_scale(bits):
    values = np.random.default_rng(0).standard_normal(7).astype(np.float32)
    weights = message(values)
    _quantize_wp_field(weights, bits, MODES[0], (7,))
    result = read_weights(weights, [7])
    _dequantize_wp(weights, (7,))
    assert np.allclose(result, weights.floatValue, atol=1e-6)


def test_bits_are_read_most_significant_first():
    weights = schema("NeuralNetwork_pb2").WeightParams()
    weights.rawValue = bytes([0b001_010_01, 0b1_100_0000])
    weights.quantization.numberOfBits = 3
    weights.quantization.lookupTableQuantization.floatValue.extend(range(8))
    assert read_weights(weights, [4]).tolist() == [1, 2, 3, 4]


def quantized(values):
    weights = message(values)
    _quantize_wp_field(weights, 4, MODES[0], SHAPE)
    return weights


def test_is_updatable_is_ignored(values):
    weights = message(values)
    weights.isUpdatable = True
    assert np.array_equal(read_weights(weights, SHAPE), values)


@pytest.mark.parametrize(
    ("damage", "message_part"),
    [
        (lambda weights: weights.ClearField("rawValue"), "empty"),
        (lambda weights: setattr(weights, "rawValue", weights.rawValue[:-1]), "bytes, but"),
        (lambda weights: setattr(weights.quantization, "numberOfBits", 9), "9 bits"),
        (lambda weights: setattr(weights.quantization, "numberOfBits", 0), "0 bits"),
        (lambda weights: weights.quantization.ClearField("linearQuantization"), "neither"),
        (lambda weights: weights.quantization.linearQuantization.scale.pop(), "5 scales"),
        (lambda weights: weights.quantization.linearQuantization.ClearField("bias"), "0 biases"),
        (lambda weights: weights.floatValue.append(1.0), "twice"),
        (
            lambda weights: weights.quantization.lookupTableQuantization.floatValue.extend([0.0] * 15),
            "15 entries",
        ),
    ],
)
def test_invalid_weights_are_reported(values, damage, message_part):
    weights = quantized(values)
    damage(weights)
    with pytest.raises(ValueError, match=message_part):
        read_weights(weights, SHAPE)


def test_wrong_number_of_floats_is_reported(values):
    with pytest.raises(ValueError, match=r"269 numbers, but 270 numbers \(6 x 3 x 5 x 3\)"):
        read_weights(message(values.flatten()[:-1]), SHAPE)


def test_dynamic_quantization_is_refused_by_name():
    weights = schema("NeuralNetwork_pb2").WeightParams(int8RawValue=bytes(4))
    with pytest.raises(NotImplementedError, match="int8DynamicQuantize"):
        read_weights(weights, [4])
