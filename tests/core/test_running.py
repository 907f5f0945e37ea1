"""Runners run in batches of one size, and files with the metadata of another graph are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from timmx.artifact.opening import read_artifact
from timmx.contract.runner import OpenSettings, Quantization, Runner, TensorSpec
from timmx.errors import ArtifactError, UnsupportedError
from timmx.inputs.running import check_interface, interface_mismatch, run_batches


class Means(Runner):
    """The mean of each channel in integer percent, and the number of each row in its batch."""

    inputs = (TensorSpec(name="input", shape=("batch", 4, 5, 3), dtype="float32", layout="NHWC"),)
    outputs = (
        TensorSpec(
            name="means",
            shape=("batch", 3),
            dtype="int8",
            quantization=Quantization(scale=0.01, zero_point=0),
        ),
        TensorSpec(name="rows", shape=("batch",), dtype="float32"),
    )

    def __init__(self, error=None):
        self.seen, self.error = [], error

    def run(self, feeds):
        (images,) = feeds.values()
        self.seen.append(images.shape)
        if self.error:
            raise self.error
        means = np.rint(100 * images.mean(axis=(1, 2))).astype(np.int8)
        return {"means": means, "rows": np.arange(len(images), dtype=np.float32)}


INPUTS = np.stack([np.full((3, 4, 5), number / 10, np.float32) for number in range(7)])


def test_batches_have_one_size_and_the_outputs_of_padding_are_dropped():
    runner = Means()
    found = run_batches(runner, INPUTS, ["means", "rows"], 3)
    assert runner.seen == [(3, 4, 5, 3)] * 3
    np.testing.assert_allclose(found["means"], INPUTS.mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_array_equal(found["rows"], [0, 1, 2, 0, 1, 2, 0])


def test_without_a_batch_size_all_inputs_run_at_once():
    runner = Means()
    found = run_batches(runner, INPUTS, ["rows"])
    assert runner.seen == [(7, 4, 5, 3)]
    assert found.keys() == {"rows"}


def test_a_failing_runtime_and_a_missing_output_are_reported_with_the_file():
    with pytest.raises(ArtifactError, match=r"^m\.tflite fails at batch size 3: KeyError: 'op'$"):
        run_batches(Means(KeyError("op")), INPUTS, ["rows"], 3, what="m.tflite")
    with pytest.raises(ArtifactError, match=r"^m\.tflite has no output 'logits'; it has means, rows"):
        run_batches(Means(), INPUTS, ["logits"], 3, what=Path("m.tflite"))
    with pytest.raises(UnsupportedError, match="operation erf"):
        run_batches(Means(UnsupportedError("the operation erf is unknown")), INPUTS, ["rows"], 3)


@pytest.mark.parametrize(
    ("size", "outputs", "wrong"),
    [
        ((3, 4, 5), {"means": (1, 3), "rows": (1,)}, ""),
        ((3, 4, 5), {"rows": (1,), "means": ("batch", "classes")}, ""),
        ((3, 5, 4), {"means": (1, 3), "rows": (1,)}, "the shape of input is"),
        ((3, 4, 5), {"means": (1, 4), "rows": (1,)}, "the shape of means is"),
        ((3, 4, 5), {"means": (1, 3, 1), "rows": (1,)}, "the shape of means is"),
        ((3, 4, 5), {"means": (1, 3)}, "its outputs are means, rows; expected means"),
        ((3, 4, 5), {"means": (1, 3), "other": (1,)}, "its outputs are means, rows; expected means, other"),
    ],
)
def test_other_inputs_and_outputs_are_reported(size, outputs, wrong):
    found = interface_mismatch(Means(), size, outputs)
    assert found.startswith(wrong)
    assert bool(found) == bool(wrong)


def test_a_runtime_that_reports_no_sizes_is_accepted():
    runner = Means()
    runner.outputs = tuple(TensorSpec(name=spec.name, shape=(), dtype="float32") for spec in Means.outputs)
    assert interface_mismatch(runner, (3, 4, 5), {"means": (1, 3), "rows": (1,)}) == ""


def test_a_file_with_the_metadata_of_another_graph_is_refused(exported_digits):
    path = exported_digits("onnx")
    backend, metadata = read_artifact(path)
    (output,) = metadata.outputs
    with backend.open(path, OpenSettings()) as runner:
        check_interface(path, runner, metadata)
        for changed in (
            replace(metadata, outputs=(replace(output, name="scores"),)),
            replace(metadata, outputs=(replace(output, shape=(1, 12)),)),
            replace(metadata, input=replace(metadata.input, size=(3, 32, 32))),
        ):
            with pytest.raises(
                ArtifactError,
                match=r"onnx is damaged: its inputs and outputs do not match its metadata: .* expected",
            ):
                check_interface(path, runner, changed)
