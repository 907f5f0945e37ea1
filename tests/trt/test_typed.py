"""The typed ONNX keeps the accuracy on the digits in every mode, and on photographs for the families."""

from __future__ import annotations

from pathlib import Path

import onnx
import photographs
import pytest
import timmx
from litert_quality import settled_model, write_seen_digits
from timmx.testing import awakened_model
from timmx.verification.comparison import FLOORS_DB

pytestmark = pytest.mark.usefixtures("export")

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
CALIBRATED = ("int8", "fp8")
FAMILIES = [
    "resnet18",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "eva02_tiny_patch14_224",
]


@pytest.mark.parametrize(
    ("mode", "least_db", "max_changed"),
    [("fp32", 100, 0), ("fp16", 45, 1), ("bf16", 30, 1), ("int8", 20, 5), ("fp8", 10, 5)],
)
def test_each_mode_classifies_the_digits(tmp_path, mode, least_db, max_changed):
    data = {}
    if mode in CALIBRATED:
        write_seen_digits(tmp_path / "seen", 64)
        data["calibration_data"] = tmp_path / "seen"
    result = timmx.export(
        "tensorrt", f"local-dir:{DIGITS}", onnx_only=True, mode=mode, output=tmp_path / "digits.onnx", **data
    )
    assert result.verification.status == "verified"
    assert result.verification.inputs == 500
    assert result.verification.snr_db > least_db
    assert result.verification.top1_agreement >= 1 - max_changed / 500
    assert abs(result.verification.accuracy - result.verification.model_accuracy) <= max_changed / 500
    assert result.verification.model_accuracy == pytest.approx(0.996)
    assert result.metadata["format"]["mode"] == mode
    if mode in CALIBRATED:
        assert result.metadata["format"]["quantized_operations"] == {"Conv": {"int8": 13, "fp8": 6}[mode]}
    values = [*onnx.load(result.path).graph.input, *onnx.load(result.path).graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {onnx.TensorProto.FLOAT}


def test_norms_softmax_and_normalization_stay_float32(tmp_path):
    result = timmx.export(
        "tensorrt",
        "test_vit",
        onnx_only=True,
        mode="fp16",
        normalize=True,
        softmax=True,
        output=tmp_path / "vit.onnx",
        verify=False,
    )
    operations = result.metadata["format"]["float32_operations"]
    assert {"LayerNormalization", "Softmax", "Sub", "Div"} <= operations.keys()


def test_operations_that_overflow_float16_stay_float32(tmp_path):
    """The linear attention of efficientvit_b0 exceeds 65504 on random weights."""
    model = awakened_model("efficientvit_b0")
    result = timmx.export(
        "tensorrt", model, onnx_only=True, mode="fp16", output=tmp_path / "m.onnx", min_snr=30
    )
    assert result.metadata["format"]["float32_operations"]["MatMul"] > 0
    assert any("float16's limit" in note for note in result.notes)


@pytest.fixture(scope="module")
def photograph_folders(tmp_path_factory):
    return photographs.write(tmp_path_factory.mktemp("photographs"), calibration=16, held_out=16)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("mode", ["fp32", "fp16", "bf16", *CALIBRATED])
def test_families_reach_the_floors(tmp_path, photograph_folders, name, mode):
    calibration, held_out = photograph_folders
    model = settled_model(name, calibration)
    result = timmx.export(
        "tensorrt",
        model,
        onnx_only=True,
        mode=mode,
        output=tmp_path / f"{name}.onnx",
        verify_data=held_out,
        min_snr=0,
        **({"calibration_data": calibration} if mode in CALIBRATED else {}),
    )
    assert result.verification.snr_db >= FLOORS_DB[result.precision]
