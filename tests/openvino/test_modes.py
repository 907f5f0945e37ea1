"""Each mode of `timmx openvino` keeps the accuracy of the digits, and stores what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import timmx
from conftest import DIGITS
from timmx.errors import UnsupportedError
from timmx.plugin import feed
from timmx.registry import load
from timmx.testing import awaken
from timmx.tools.subject.subject import open_subject

SAMPLES = DIGITS / "samples"
IMAGES = sorted(SAMPLES.glob("*/*"))[::5]
INT8 = {"mode": "int8", "calibration_data": SAMPLES}
BYTES = {"io": "uint8", "normalize": True}
MODES = {
    "fp16": {"mode": "fp16"},
    "weight-int8": {"mode": "weight-int8"},
    "weight-int4": {"mode": "weight-int4"},
    "int8": INT8,
    "bytes": BYTES,
    "int8 of bytes": INT8 | BYTES,
}


@pytest.fixture(scope="module")
def files(exported_digits):
    return {"fp32": exported_digits("openvino")} | {
        name: exported_digits("openvino", **options) for name, options in MODES.items()
    }


def outputs(path):
    with open_subject(path) as subject:
        pixels = np.stack([subject.preprocessor.read(image) for image in IMAGES])
        return subject.run(pixels)["output"]


@pytest.mark.parametrize("name", MODES)
def test_classes_stay_the_same(files, name):
    expected, found = outputs(files["fp32"]), outputs(files[name])
    assert np.mean(found.argmax(1) == expected.argmax(1)) >= 0.98
    if name == "bytes":
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_weights_are_stored_in_fewer_bits(files):
    sizes = {name: path.with_suffix(".bin").stat().st_size for name, path in files.items()}
    assert sizes["fp16"] < 0.51 * sizes["fp32"]
    assert sizes["weight-int8"] < 0.3 * sizes["fp32"]
    assert sizes["int8"] < 0.35 * sizes["fp32"]
    shares = {name: load("openvino").inspect(path)["weights"] for name, path in files.items()}
    assert shares["fp16"]["float16"] > 0.99
    assert shares["weight-int8"]["int8"] > 0.95
    assert shares["weight-int4"]["uint4"] > 0
    assert shares["int8"]["int8"] > 0.85


def test_the_plan_of_int8_is_in_the_metadata(files):
    facts = load("openvino").read_metadata(files["int8"])["format"]
    plan = facts["quantization_plan"]
    assert plan["integer_share"] > 0.9
    assert plan["measured_db"] == pytest.approx(plan["predicted_db"], abs=6)
    quantizers = load("openvino").inspect(files["int8"])["operations"]["FakeQuantize"]
    assert 0 < quantizers <= plan["layers"]["integer"]  # layers with one input share it


def test_an_image_input_is_described(files):
    with timmx.open(files["bytes"]) as runner:
        (entry,) = runner.inputs
        assert (entry.dtype, entry.layout, entry.shape) == ("uint8", "NHWC", (1, 64, 64, 3))
        assert feed(entry, np.zeros((1, 3, 64, 64), np.float32)).dtype == np.uint8


def test_a_largest_drop_is_met(export, digits, tmp_path):
    result = export("openvino", digits, tmp_path / "m.xml", **INT8, max_drop=0.0)
    plan = json.loads(json.dumps(load("openvino").read_metadata(result.path)))["format"]["quantization_plan"]
    assert plan["measured_drop"] <= 0.0
    assert plan["drop_of"] == "accuracy"


def test_percentiles_cut_ranges(exported_digits, files):
    other = exported_digits("openvino", **INT8, calibration_method="percentile")
    assert np.mean(outputs(other).argmax(1) == outputs(files["fp32"]).argmax(1)) >= 0.9
    assert not np.array_equal(outputs(other), outputs(files["int8"]))


def test_a_model_without_linear_layers_has_no_4_bits(export, tmp_path):
    model = awaken(timm.create_model("test_resnet", num_classes=0))
    with pytest.raises(UnsupportedError, match="no linear layer with a multiple of 32 inputs") as caught:
        export("openvino", model, tmp_path / "m.xml", mode="weight-int4")
    assert caught.value.hint == "use --mode weight-int8"


@pytest.mark.slow
def test_a_mobilenet_keeps_its_ratio_in_int8(export, tmp_path):
    """NNCF's own ranges leave 1 dB of it."""
    model = awaken(timm.create_model("mobilenetv3_small_050"))
    result = export(
        "openvino", model, tmp_path / "m.xml", mode="int8", random_calibration=True, input_size=(3, 96, 96)
    )
    assert result.verification.snr_db > 12
