"""What quantized files keep of models that plain recipes destroy, judged on photographs."""

from __future__ import annotations

import photographs
import pytest
import timmx
import torch
from litert_quality import answers, read, settled_model
from timmx.base.snr import worst_db


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folders of parts of photographs to calibrate on, and of parts of others to judge by."""
    return photographs.write(tmp_path_factory.mktemp("photographs"), calibration=16, held_out=16)


def kept_db(model, pictures, path, **options):
    """The signal-to-noise ratio of an export on photographs that it was not calibrated on."""
    calibration, held_out = pictures
    if options["mode"] in ("int8", "int16x8"):
        options["calibration_data"] = calibration
    timmx.export("litert", model, output=path, verify=False, **options)
    inputs = read(model, sorted(held_out.iterdir()))
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    with timmx.open(path) as runner:
        return worst_db([expected], [answers(runner, inputs)])


@pytest.mark.parametrize(
    ("name", "most_lost"),
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
def test_modes_keep_nearly_what_the_rounded_weights_keep(pictures, tmp_path, name, most_lost):
    """In dB beside `weight-int8`, whose arithmetic is float; the quantizer's own recipes lose 10 to 20."""
    model = settled_model(name, pictures[0])
    weights_db = kept_db(model, pictures, tmp_path / "m.tflite", mode="weight-int8")
    lost = {
        mode: weights_db - kept_db(model, pictures, tmp_path / "m.tflite", mode=mode) for mode in most_lost
    }
    assert {mode: db for mode, db in lost.items() if db > most_lost[mode]} == {}, (weights_db, lost)
