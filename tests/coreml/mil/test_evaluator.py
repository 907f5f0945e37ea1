"""The evaluator's float16 limits, errors, dynamic shapes and imports."""

from __future__ import annotations

import math
import sys

import forks
import numpy as np
import pytest
import torch
from mil_programs import open_package, parse_package, program, save, save_and_open
from timmx.errors import ArtifactError, ConfigurationError, UnsupportedError
from timmx_coreml.mil import MilEvaluator

HALF = np.zeros((1, 4), np.float16)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A program with weights in its file: linear, relu, and a palette."""
    rng = np.random.default_rng(0)

    def build(mb, x):
        x = mb.linear(x=x, weight=rng.normal(size=(8, 4)).astype(np.float32), name="first")
        x = mb.relu(x=x, name="second")
        weight = mb.constexpr_lut_to_dense(
            indices=rng.integers(0, 256, size=12).astype(np.uint8),
            lut=rng.normal(size=16).astype(np.float32),
            shape=np.array([3, 8], np.uint32),
            name="palette",
        )
        return mb.linear(x=x, weight=weight, name="third")

    path = tmp_path_factory.mktemp("mil") / "m.mlpackage"
    save(program(build, {"x": (2, 4)}, "iOS16"), path, "iOS16")
    return path


def weight_file(package):
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def edit(package, change):
    """Return the evaluator of the package after a change of its program in memory."""
    model = parse_package(package)
    change(model.mlProgram.functions["main"].block_specializations["CoreML6"])
    return MilEvaluator(model, weight_file(package).parent.parent)


def operation_named(block, name):
    return next(operation for operation in block.operations if operation.outputs[0].name == name)


def test_float16_results_are_rounded_after_every_operation(tmp_path):
    def build(mb, x):
        x = mb.add(x=x, y=np.float16(2048))
        return mb.sub(x=x, y=np.float16(2048), name="out")

    evaluator = save_and_open(build, {"x": HALF}, tmp_path / "m.mlpackage", "iOS16")
    inputs = torch.tensor([[0.4, 1.0, 1.5, 3.0]], dtype=torch.float16)
    # From 2048 to 4096 float16 holds even numbers only, and a tie goes to the multiple of 4.
    assert evaluator.run({"x": inputs})["out"].tolist() == [[0, 0, 2, 4]]


def test_sums_inside_one_operation_are_float32(tmp_path):
    def build(mb, x):
        return mb.reduce_sum(x=x, axes=[1], keep_dims=False, name="out")

    evaluator = save_and_open(build, {"x": np.zeros((1, 4), np.float16)}, tmp_path / "m.mlpackage", "iOS16")
    inputs = torch.tensor([[60000, 60000, -60000, -59999]], dtype=torch.float16)
    assert evaluator.run({"x": inputs})["out"].item() == 0
    assert evaluator.large_values == []


def test_overflow_and_near_overflow_are_reported(tmp_path):
    def build(mb, x):
        square = mb.square(x=x, name="square")
        small = mb.mul(x=x, y=np.float16(0.5), name="half")
        after = mb.add(x=square, y=np.float16(1), name="after")
        return [after, small]

    evaluator = save_and_open(build, {"x": HALF}, tmp_path / "m.mlpackage", "iOS16")
    evaluator.run({"x": torch.full((1, 4), 100, dtype=torch.float16)})
    assert evaluator.large_values == []
    evaluator.run({"x": torch.full((1, 4), 200, dtype=torch.float16)})
    large = {value.name: value for value in evaluator.large_values}
    assert list(large) == ["square", "after"]
    assert (large["square"].op, large["square"].largest, large["square"].overflowed) == (
        "square",
        40000,
        False,
    )
    results = evaluator.run({"x": torch.full((1, 4), 300, dtype=torch.float16)})
    assert math.isinf(results["after"].max())
    large = {value.name: value for value in evaluator.large_values}
    assert large["square"].overflowed
    assert large["square"].largest == 90000
    # The input of `after` was already infinite.
    assert (large["after"].overflowed, large["after"].largest) == (False, 40001)
    evaluator.run({"x": torch.full((1, 4), 10, dtype=torch.float16)})
    assert large == {value.name: value for value in evaluator.large_values}


def test_cast_to_float16_can_overflow(tmp_path):
    def build(mb, x):
        return mb.cast(x=x, dtype="fp16", name="out")

    evaluator = save_and_open(build, {"x": (1,)}, tmp_path / "m.mlpackage", "iOS16")
    assert evaluator.run({"x": torch.tensor([1e6])})["out"].item() == math.inf
    assert evaluator.large_values[0].overflowed
    assert evaluator.run({"x": torch.tensor([1e-9])})["out"].item() == 0


def test_unknown_operation_is_reported_when_opened(package):
    def change(block):
        operation_named(block, "second").type = "relu_of_the_future"

    with pytest.raises(UnsupportedError, match=r"second \(relu_of_the_future\)\nhint: .*macOS"):
        edit(package, change)


def test_unknown_parameter_is_reported_when_opened(package):
    def change(block):
        relu = operation_named(block, "second")
        relu.inputs["slope"].CopyFrom(relu.inputs["x"])

    with pytest.raises(UnsupportedError, match=r"slope of the operation second"):
        edit(package, change)


def test_unknown_value_of_a_parameter_is_reported(tmp_path):
    def build(mb, x):
        return mb.gelu(x=x, mode="EXACT", name="out")

    path = tmp_path / "m.mlpackage"
    save(program(build, {"x": (3,)}, "iOS16"), path, "iOS16")
    model = parse_package(path)
    block = model.mlProgram.functions["main"].block_specializations["CoreML6"]
    mode = next(op for op in block.operations if op.type == "const")
    mode.attributes["val"].immediateValue.tensor.strings.values[0] = "ROUGHLY"
    with pytest.raises(UnsupportedError, match=r"out \(gelu\).*ROUGHLY"):
        MilEvaluator(model, None).run({"x": torch.zeros(3)})


@pytest.mark.parametrize("part", ["shape", "rank", "dtype"])
def test_result_without_its_declared_type_is_an_error(package, part):
    def change(block):
        declared = operation_named(block, "second").outputs[0].type.tensorType
        if part == "shape":
            declared.dimensions[1].constant.size = 9
        elif part == "rank":
            declared.dimensions.add().constant.size = 1
            declared.rank = 3
        else:
            declared.dataType = 10

    evaluator = edit(package, change)
    with pytest.raises(ArtifactError, match=r"invalid.*second.*\nhint: export the model again"):
        evaluator.run({"x": torch.zeros(2, 4)})


@pytest.mark.parametrize("part", ["argument", "output", "parameter"])
def test_missing_variable_or_parameter_is_an_error(package, part):
    def change(block):
        if part == "argument":
            operation_named(block, "second").inputs["x"].arguments[0].name = "nowhere"
        elif part == "output":
            block.outputs[0] = "nowhere"
        else:
            del operation_named(block, "second").inputs["x"]

    with pytest.raises(ArtifactError, match=r"nowhere|missing"):
        edit(package, change)


@pytest.mark.parametrize("size", [0, 10, 63, 64, 0.25, 0.5, 0.75, -1])
def test_truncated_weight_file_is_reported(package, tmp_path, size):
    import shutil

    copy = tmp_path / "m.mlpackage"
    shutil.copytree(package, copy)
    whole = weight_file(copy).read_bytes()
    size_bytes = int(len(whole) * size) if 0 < size < 1 else size
    weight_file(copy).write_bytes(whole[:size_bytes])
    with pytest.raises(ArtifactError, match=r"weight.*\nhint: export the model again, or copy it again"):
        open_package(copy)


def test_missing_weight_file_is_reported(package, tmp_path):
    import shutil

    copy = tmp_path / "m.mlpackage"
    shutil.copytree(package, copy)
    weight_file(copy).unlink()
    with pytest.raises(ArtifactError, match=r"weight\.bin"):
        open_package(copy)
    with pytest.raises(ArtifactError, match=r"weight\.bin"):
        MilEvaluator(parse_package(package), None)


@pytest.mark.parametrize(
    ("offset", "value"), [(4, 1), (64, 0), (68, 1), (72, 1), (80, 1 << 40), (80, 0)], ids=str
)
def test_damaged_weight_file_is_reported(package, tmp_path, offset, value):
    """The version, and the first record's sentinel, data type, size and offset."""
    import shutil

    copy = tmp_path / "m.mlpackage"
    shutil.copytree(package, copy)
    content = bytearray(weight_file(copy).read_bytes())
    width = 4 if offset < 72 else 8
    content[offset : offset + width] = value.to_bytes(width, "little")
    weight_file(copy).write_bytes(content)
    with pytest.raises(ArtifactError, match="weight"):
        open_package(copy)


def test_weight_file_outside_the_model_is_refused(package):
    def change(block):
        operation_named(block, "palette").attributes[
            "lut"
        ].blobFileValue.fileName = "@model_path/../../secret"

    with pytest.raises(ArtifactError, match="secret"):
        edit(package, change)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": torch.zeros(2, 4), "y": torch.zeros(1)},
        {"x": torch.zeros(3, 4)},
        {"x": torch.zeros(2, 4, dtype=torch.float16)},
    ],
    ids=["none", "more", "shape", "dtype"],
)
def test_wrong_inputs_are_refused(package, inputs):
    with pytest.raises(ConfigurationError, match="x"):
        open_package(package).run(inputs)


def test_dynamic_sizes(tmp_path):
    """The batch size is dynamic, and a reshape reads it at run time."""

    def build(mb, x):
        sizes = mb.shape(x=x)
        batch = mb.slice_by_index(x=sizes, begin=[0], end=[1])
        target = mb.concat(values=(batch, np.array([-1], np.int32)), axis=0)
        x = mb.reshape(x=mb.transpose(x=x, perm=[0, 2, 1]), shape=target)
        return mb.add(x=x, y=np.arange(6, dtype=np.float32), name="out")

    from coremltools.converters.mil.mil import get_new_symbol

    path = tmp_path / "m.mlpackage"
    import coremltools as ct

    save(
        program(build, {"x": (get_new_symbol(), 2, 3)}, "iOS16"),
        path,
        "iOS16",
        inputs=[ct.TensorType(name="x", shape=(ct.RangeDim(1, 8, default=1), 2, 3))],
    )
    evaluator = open_package(path)
    assert evaluator.inputs == {"x": (torch.float32, (None, 2, 3))}
    for batch in (1, 2, 5):
        inputs = torch.randn(batch, 2, 3)
        expected = inputs.transpose(1, 2).reshape(batch, 6) + torch.arange(6.0)
        torch.testing.assert_close(evaluator.run({"x": inputs})["out"], expected)


@pytest.mark.parametrize("labels", [["cat", "dog", "emu"], [7, 8, 9]], ids=str)
def test_classifier_returns_label_and_probabilities(tmp_path, labels):
    import coremltools as ct

    def build(mb, x):
        return mb.softmax(x=x, name="probabilities")

    path = tmp_path / "m.mlpackage"
    classifier = program(build, {"x": (1, 3)}, "iOS16")
    save(classifier, path, "iOS16", classifier_config=ct.ClassifierConfig(labels))
    evaluator = open_package(path)
    results = evaluator.run({"x": torch.tensor([[0.0, 2.0, 1.0]])})
    assert evaluator.outputs == ("classLabel", "classLabel_probs")
    assert results["classLabel"] == labels[1]
    expected = torch.softmax(torch.tensor([0.0, 2.0, 1.0]), 0).tolist()
    assert results["classLabel_probs"] == pytest.approx(dict(zip(labels, expected, strict=True)))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantized_activations(tmp_path, dtype, axis):
    """Halves round to even, and values out of range are clamped."""
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    scale = np.float32(0.5) if axis is None else np.array([0.5, 0.25, 2], np.float32)
    zero = np.dtype(dtype).type(3) if axis is None else np.array([3, 0, 100], dtype)
    options = {} if axis is None else {"axis": axis}

    def build(mb, x):
        steps = mb.quantize(input=x, scale=scale, zero_point=zero, output_dtype=dtype, **options)
        back = mb.dequantize(input=steps, scale=scale, zero_point=zero, **options)
        return mb.identity(x=back, name="out")

    evaluator = save_and_open(build, {"x": (2, 3)}, tmp_path / "m.mlpackage", "iOS17")
    x = np.array([[0.25, 0.75, -3.1], [1e4, -1e4, 0.4]], np.float32)
    steps = np.clip(np.round(x / scale) + np.float32(zero), low, high)
    expected = (steps - np.float32(zero)) * scale
    np.testing.assert_array_equal(evaluator.run({"x": torch.from_numpy(x)})["out"].numpy(), expected)


def test_undefined_index_is_refused(tmp_path):
    """Since iOS 17 an index below 0 is out of bounds, and what happens then is undefined."""

    def build(mb, x, places):
        return mb.gather(x=x, indices=places, axis=0, name="out")

    inputs = {"x": (3, 2), "places": np.zeros(2, np.int32)}
    negative = {"x": torch.randn(3, 2), "places": torch.tensor([0, -1], dtype=torch.int32)}
    old = save_and_open(build, inputs, tmp_path / "old.mlpackage", "iOS16")
    torch.testing.assert_close(old.run(negative)["out"], negative["x"][[0, 2]])
    new = save_and_open(build, inputs, tmp_path / "new.mlpackage", "iOS17")
    with pytest.raises(ArtifactError, match=r"out \(gather\)"):
        new.run(negative)


def test_coremltools_is_not_imported(process, package):
    script = f"""
import sys, torch
from pathlib import Path
from timmx_coreml.mil import MilEvaluator
from timmx_coreml.schema import schema
folder = Path({str(package)!r}) / "Data" / "com.apple.CoreML"
model = schema("Model_pb2").Model()
model.ParseFromString((folder / "model.mlmodel").read_bytes())
MilEvaluator(model, folder).run({{"x": torch.zeros(2, 4)}})
assert "coremltools" not in sys.modules
"""
    done = forks.run([sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr


def test_control_flow_is_refused_by_name(tmp_path):
    def build(mb, x):
        positive = mb.greater(x=mb.reduce_sum(x=x), y=0.0)
        return mb.cond(
            pred=positive, _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.square(x=x), name="choice"
        )

    with pytest.raises(UnsupportedError, match=r"choice \(cond\)"):
        save_and_open(build, {"x": (3,)}, tmp_path / "m.mlpackage", "iOS16")


def test_operands_of_two_types_are_an_error(tmp_path):
    def build(mb, x):
        return mb.add(x=x, y=np.float32([1, 2, 3]), name="out")

    path = tmp_path / "m.mlpackage"
    save(program(build, {"x": (3,)}, "iOS16"), path, "iOS16")
    model = parse_package(path)
    block = model.mlProgram.functions["main"].block_specializations["CoreML6"]
    const = next(operation for operation in block.operations if operation.type == "const")
    for declared in (const.attributes["val"].type, const.outputs[0].type):
        declared.tensorType.dataType = 10
    const.attributes["val"].immediateValue.tensor.bytes.values = np.float16([1, 2, 3]).tobytes()
    with pytest.raises(ArtifactError, match=r"out \(add\) combines torch.float16 and torch.float32"):
        MilEvaluator(model, None).run({"x": torch.zeros(3)})
