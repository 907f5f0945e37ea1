"""What quantized files keep of models that plain recipes destroy, judged on photographs."""

from __future__ import annotations

import numpy as np
import pytest
import timmx
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timmx.edges import feed, fetch
from timmx.images import ImageReader
from timmx.model.data_config import resolve_data_config
from timmx.snr import SignalToNoise
from timmx.testing import awakened_model


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of 32 square parts of two photographs."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    wholes = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(32):
        whole = wholes[number % 2]
        side = int(rng.integers(160, 420))
        left, top = (int(rng.integers(0, length - side + 1)) for length in whole.size)
        whole.crop((left, top, left + side, top + side)).save(folder / f"{number:02}.png")
    return folder


def kept_db(model, photographs, path, **options):
    """The signal-to-noise ratio of an export on the last 16 photographs."""
    if options["mode"] in ("int8", "int16x8"):
        options["calibration_data"] = photographs
    timmx.export("litert", model, output=path, verify=False, **options)
    config, _ = resolve_data_config(model.pretrained_cfg, model.pretrained_cfg["input_size"])
    reader = ImageReader(config, False)
    inputs = np.stack([reader.read(file) for file in sorted(photographs.iterdir())[16:]])
    with torch.inference_mode():
        expected = model(torch.from_numpy(inputs)).numpy()
    ratio = SignalToNoise()
    with timmx.open(path) as runner:
        (entry,), (output,) = runner.inputs, runner.outputs
        for i in range(len(inputs)):
            found = runner.run({entry.name: feed(entry, inputs[i : i + 1])})[output.name]
            ratio.update(expected[i : i + 1], fetch(output, found))
    return ratio.snr_db


@pytest.mark.parametrize(
    ("name", "most_lost"),
    [
        ("lcnet_035", {"fp16": -10, "dynamic-int8": 3, "int8": 4, "int16x8": 2}),
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
def test_modes_keep_nearly_what_the_rounded_weights_keep(photographs, tmp_path, name, most_lost):
    """In dB beside `weight-int8`, whose arithmetic is float; the quantizer's own recipes lose 10 to 20."""
    model = awakened_model(name)
    weights_db = kept_db(model, photographs, tmp_path / "m.tflite", mode="weight-int8")
    lost = {
        mode: weights_db - kept_db(model, photographs, tmp_path / "m.tflite", mode=mode) for mode in most_lost
    }
    assert {mode: db for mode, db in lost.items() if db > most_lost[mode]} == {}, (weights_db, lost)
