"""Artifacts with inputs and outputs other than float32 (N, C, H, W): conversion, verification and metadata."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from timmx.contract.capabilities import Precision
from timmx.contract.metadata import OutputKind, OutputMetadata
from timmx.contract.runner import Quantization, Runner, TensorSpec
from timmx.errors import VerificationError
from timmx.exporting.metadata import IoTypes
from timmx.inputs.conversion import feed, fetch
from timmx.inputs.samples import SyntheticSamples
from timmx.model.data_config import DataConfig
from timmx.verification.comparison import Reference, Status, verify

CONFIG = DataConfig(
    input_size=(3, 8, 10),
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
    interpolation="bicubic",
    crop_pct=0.9,
    crop_mode="center",
)
WEIGHT = np.random.default_rng(0).normal(size=(240, 5)).astype(np.float32)
INPUT = TensorSpec(
    name="input", shape=(1, 8, 10, 3), dtype="int8", layout="NHWC", quantization=Quantization(4 / 255, 1)
)
OUTPUT = TensorSpec(
    name="output", shape=(1, 5), dtype="int8", layout="NC", quantization=Quantization(1.5, -3)
)


def model(inputs):
    return inputs.reshape(len(inputs), -1) @ WEIGHT


class Integers(Runner):
    """Takes and returns int8, (N, H, W, C); computes in float."""

    def __init__(self, inputs=INPUT, outputs=OUTPUT):
        self.inputs, self.outputs = (inputs,), (outputs,)

    def run(self, feeds):
        fed = feeds["input"]
        assert fed.dtype == np.int8
        assert fed.shape == (1, 8, 10, 3)
        real = (fed.astype(np.float32) - 1) * np.float32(4 / 255)
        stored = np.rint(model(np.ascontiguousarray(real.transpose(0, 3, 1, 2))) / 1.5) - 3
        return {"output": np.clip(stored, -128, 127).astype(np.int8)}


def judge(runner):
    samples = SyntheticSamples(CONFIG, in_graph=False)
    reference = Reference(
        samples=samples, outputs=(model(samples.take(range(len(samples)))),), names=("output",), classes=True
    )
    return verify(runner, reference, precision=Precision.INT8, batch_size=1, conclusive=True, min_snr_db=None)


def test_a_quantized_channels_last_artifact_is_compared_in_real_numbers():
    report = judge(Integers())
    assert report.status is Status.VERIFIED, report.reason
    assert report.snr_db > 20


@pytest.mark.parametrize(
    "runner",
    [
        Integers(replace(INPUT, quantization=Quantization(8 / 255, 1))),
        Integers(outputs=replace(OUTPUT, quantization=Quantization(0.5, -3))),
    ],
    ids=["input", "output"],
)
def test_a_wrong_scale_fails(runner):
    assert judge(runner).status is Status.FAILED


def test_integers_without_a_quantization_are_an_error():
    with pytest.raises(VerificationError, match="int8 without a quantization"):
        judge(Integers(replace(INPUT, quantization=None)))
    with pytest.raises(VerificationError, match="int8, expected float32"):
        judge(Integers(outputs=replace(OUTPUT, quantization=None)))
    with pytest.raises(VerificationError, match="int8, expected uint8 as in its quantization"):
        judge(Integers(outputs=replace(OUTPUT, dtype="uint8")))


def test_outputs_with_channels_last_are_an_error():
    class Turned(Integers):
        def run(self, feeds):
            return {"output": super().run(feeds)["output"].T}

    with pytest.raises(VerificationError, match="changed its layout"):
        judge(Turned())


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_quantization_rounds_to_half_a_step_and_clips_outside_the_range(dtype):
    limits = np.iinfo(dtype)
    scale, zero_point = 4 / (int(limits.max) - int(limits.min)), (int(limits.min) + int(limits.max)) // 2
    spec = TensorSpec(
        name="input",
        shape=(2, 3, 8, 10),
        dtype=dtype,
        layout="NCHW",
        quantization=Quantization(scale, zero_point),
    )
    values = np.random.default_rng(0).uniform(-1.9, 1.9, size=(2, 3, 8, 10)).astype(np.float32)
    np.testing.assert_allclose(fetch(spec, feed(spec, values)), values, atol=0.51 * scale)
    assert feed(spec, np.full((1, 3, 8, 10), 9, np.float32)).max() == limits.max
    assert feed(spec, np.full((1, 3, 8, 10), -9, np.float32)).min() == limits.min


def test_pixel_bytes_are_integers_and_may_be_channels_last():
    spec = TensorSpec(name="input", shape=(1, 8, 10, 3), dtype="uint8", layout="NHWC")
    pixels = np.random.default_rng(0).integers(0, 256, size=(2, 8, 10, 3), dtype=np.uint8)
    shares = pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.testing.assert_array_equal(feed(spec, shares), pixels)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_layout": "CHW"}, "NCHW or NHWC"),
        ({"input_dtype": "int8"}, "the input is int8 without a quantization"),
        ({"input_quantization": Quantization(1, 0)}, "the input is float32 with a quantization"),
        ({"output_dtypes": {"output": "int8"}}, "the output output is int8 without"),
        ({"output_quantization": {"output": Quantization(1, 0)}}, "the output output is float32 with"),
    ],
)
def test_io_types_without_a_meaning_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        IoTypes(**options)


def test_io_types_of_an_unknown_output_are_refused():
    outputs = (OutputMetadata(name="output", kind=OutputKind.LOGITS, shape=(1, 5)),)
    io_types = IoTypes(output_dtypes={"logits": "int8"}, output_quantization={"logits": Quantization(1, 0)})
    with pytest.raises(ValueError, match="unknown output logits; the outputs are output"):
        io_types.describe(outputs)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_must_be_above_zero(scale):
    with pytest.raises(ValueError, match="above 0"):
        Quantization(scale, 0)
