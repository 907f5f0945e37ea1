"""Files that several tests read, and MediaPipe, which checks the metadata that is written for it.

Targets of one command share their conversion, so the files of one model are exported together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import timmx
import torch
from litert_quality import read, write_seen_digits
from PIL import Image
from timmx.testing import awakened_model

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@dataclass(frozen=True)
class Together:
    """The results of one `export_many`, as its JSON has them.

    Attributes:
        results: by the name of the target: `path`, `verification`, `metadata`, `notes`.
        failures: by the name of the target: `type`, `message`, `hint`.
    """

    results: dict[str, SimpleNamespace]
    failures: dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def export_together(export, shared):
    """Export targets of LiteRT once for all workers: (name, model, targets, **options) -> Together.

    `targets` has the options of each target by a name, which is its file's stem.
    """

    def make(name, model, targets, **options):
        def fill(folder):
            wanted = [
                {"format": "litert", "output": f"{stem}.tflite", **own} for stem, own in targets.items()
            ]
            done = timmx.export_many(model, wanted, folder, **options)
            (folder / "result.json").write_text(json.dumps(done.to_dict()))

        folder = shared(f"litert-{name}", fill)
        report = json.loads((folder / "result.json").read_text())
        results = {Path(item["path"]).stem: item for item in report["artifacts"]}
        return Together(
            {
                stem: SimpleNamespace(**(item | {"path": folder / f"{stem}.tflite"}))
                for stem, item in results.items()
            },
            {Path(item["name"]).stem: item["error"] for item in report["failed"]},
        )

    return make


@pytest.fixture(scope="session")
def training_digits(shared):
    """A folder of digits that are not among the samples."""
    return shared("training-digits", lambda folder: write_seen_digits(folder / "seen", 32)) / "seen"


@pytest.fixture(scope="session")
def black_images(shared):
    """A folder of images that cannot calibrate the digits model."""

    def fill(folder):
        (folder / "black").mkdir()
        for number in range(4):
            Image.new("RGB", (64, 64)).save(folder / "black" / f"{number}.png")

    return shared("black-images", fill) / "black"


@pytest.fixture(scope="session")
def digits_files(export_together, digits, training_digits, black_images):
    """The digits model that the caller normalizes for, in every mode."""
    integers = {"mode": "int8", "calibration_data": training_digits}
    targets = {
        "fp32": {"mode": "fp32"},
        "fp16": {"mode": "fp16"},
        "dynamic-int8": {"mode": "dynamic-int8"},
        "weight-int8": {"mode": "weight-int8", "calibration_data": DIGITS / "samples"},
        "int8": integers,
        "int16x8": integers | {"mode": "int16x8"},
        "int8-io": integers | {"io": "int8"},
        "uint8-io": integers | {"io": "uint8"},
        "nhwc": {"nhwc_input": True},
        "int8-nhwc": integers | {"nhwc_input": True, "batch_size": 1},
        "black": integers | {"calibration_data": black_images},
    }
    return export_together("digits", digits, targets)


@pytest.fixture(scope="session")
def normalizing_files(export_together, digits, training_digits, shared):
    """The digits model with normalization in the graph, in integers; `tensor` is calibrated on a file of tensors."""

    def fill(folder):
        module = timm.create_model(f"local-dir:{DIGITS}")
        inputs = torch.from_numpy(read(module, sorted(training_digits.iterdir()), normalize=True))
        torch.save(inputs, folder / "inputs.pt")

    tensor = shared("training-tensor", fill) / "inputs.pt"
    targets = {
        "uint8-io": {"mode": "int8", "calibration_data": training_digits, "io": "uint8"},
        "images": {"mode": "int8", "calibration_data": training_digits, "nhwc_input": True},
        "tensor": {"mode": "int8", "calibration_data": tensor, "nhwc_input": True},
    }
    return export_together("normalizing", digits, targets, normalize=True)


@pytest.fixture(scope="session")
def pixel_files(export_together, digits):
    """The digits model that takes bytes of an image and returns probabilities."""
    targets = {"fp32": {"io": "uint8"}, "weight-int8": {"io": "uint8", "mode": "weight-int8"}}
    return export_together("pixels", digits, targets, normalize=True, softmax=True)


@pytest.fixture(scope="session")
def transformer_files(export_together):
    """A transformer of one block."""
    targets = {"int8": {"mode": "int8", "random_calibration": True}}
    return export_together("transformer", awakened_model("test_vit", depth=1), targets, min_snr=10)


@pytest.fixture(scope="session")
def mediapipe():
    """The library. Its wheel can be installed without the display libraries that it is linked against."""
    module = pytest.importorskip("mediapipe", exc_type=ImportError)
    try:
        from mediapipe.tasks.python.core import mediapipe_c_bindings

        mediapipe_c_bindings.load_raw_library()
    except OSError as error:
        pytest.skip(f"MediaPipe does not load here: {error}")
    return module


@pytest.fixture(scope="session")
def classify(mediapipe):
    """Classifies images, uint8 (H, W, 3), by its ImageClassifier: the output's name, and label to score, best first."""
    from mediapipe.tasks.python import BaseOptions, vision

    def call(model, *images):
        options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_buffer=model))
        results = []
        with vision.ImageClassifier.create_from_options(options) as classifier:
            for pixels in images:
                image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
                (result,) = classifier.classify(image).classifications
                scores = {category.category_name: category.score for category in result.categories}
                results.append((result.head_name, scores))
        return results

    return call
