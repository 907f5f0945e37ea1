"""Quantized files keep the accuracy of models that the quantizer's default recipes destroy, measured on photographs."""

from __future__ import annotations

import photographs
import pytest
import timmx
import torch
from litert_quality import answers, read, settled_model
from timmx.base.snr import worst_db

pytestmark = pytest.mark.usefixtures("export")


@pytest.fixture(scope="module")
def photograph_folders(tmp_path_factory):
    """Two folders with crops of different photographs: for calibration, and for the measurement."""
    return photographs.write(tmp_path_factory.mktemp("photographs"), calibration=16, held_out=16)


def kept_db(model, photograph_folders, folder, modes):
    """By mode: the signal-to-noise ratio of an export on photographs that were not used for calibration."""
    calibration, held_out = photograph_folders
    targets = [
        {"format": "litert", "mode": mode, "output": f"{mode}.tflite"}
        | ({"calibration_data": calibration} if mode in ("int8", "int16x8") else {})
        for mode in modes
    ]
    assert not timmx.export_many(model, targets, folder, verify=False).failures
    inputs = read(model, sorted(held_out.iterdir()))
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    ratios = {}
    for mode in modes:
        with timmx.open(folder / f"{mode}.tflite") as runner:
            ratios[mode] = worst_db([expected], [answers(runner, inputs)])
    return ratios


@pytest.mark.parametrize(
    ("name", "max_loss"),
    [
        ("lcnet_035", {"int8": 8}),
        pytest.param("lcnet_035", {"fp16": -10, "dynamic-int8": 3, "int16x8": 2}, marks=pytest.mark.slow),
        pytest.param(
            "mobilenetv3_small_100", {"fp16": -10, "dynamic-int8": 3, "int8": 6}, marks=pytest.mark.slow
        ),
        pytest.param("efficientnet_b0", {"fp16": -10, "dynamic-int8": 8, "int8": 7}, marks=pytest.mark.slow),
        pytest.param(
            "vit_tiny_patch16_224", {"fp16": -10, "dynamic-int8": 3, "int8": 8}, marks=pytest.mark.slow
        ),
        pytest.param("convnext_atto", {"fp16": -10, "dynamic-int8": 3, "int8": 5}, marks=pytest.mark.slow),
    ],
)
def test_modes_lose_little_more_than_rounded_weights(photograph_folders, tmp_path, name, max_loss):
    """In dB compared with `weight-int8`, whose arithmetic is float; the quantizer's default recipes lose 10 to 20."""
    model = settled_model(name, photograph_folders[0])
    ratios = kept_db(model, photograph_folders, tmp_path, ["weight-int8", *max_loss])
    losses = {mode: ratios["weight-int8"] - ratios[mode] for mode in max_loss}
    assert {mode: db for mode, db in losses.items() if db > max_loss[mode]} == {}, ratios


def test_a_layer_scale_that_the_converter_folds_into_a_linear_layer_is_quantized(export, awakened, tmp_path):
    """Its bias has four axes, of which the quantizer would take the first one for the channels."""
    result = export(
        "litert",
        "test_convnext2",
        tmp_path / "m.tflite",
        checkpoint=awakened("test_convnext2"),
        mode="int8",
        random_calibration=True,
    )
    assert result.verification.snr_db > 20
