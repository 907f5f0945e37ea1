"""The classifier of OpenVINO's Model API predicts what timmx predicts, by the entries that timmx writes for it."""

from __future__ import annotations

import json
import re
from functools import cache

import cv2
import numpy as np
import pytest
import timm
from conftest import DIGITS
from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import ClassificationModel
from PIL import Image
from timmx.registry import load
from timmx.testing import awaken
from timmx.tools.subject.subject import open_subject

LABELS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"),
    "Ankle boot",
)
NAMES = [label.replace(" ", "_") for label in LABELS]
"""Model API separates labels with spaces."""

IMAGES = sorted((DIGITS / "samples").glob("*/*"))[::50]
UNTURNED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
"""timm does not turn images as EXIF says."""

CASES = {
    "float": {},
    "normalize-softmax": {"normalize": True, "softmax": True},
    "bytes": {"io": "uint8", "normalize": True},
}


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("\n".join(LABELS))
    return path


@cache
def classifier(path):
    """The file in Model API."""
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # some CPUs choose bfloat16
    adapter = OpenvinoAdapter(create_core(), str(path), device="CPU", plugin_config=exact)
    return ClassificationModel.create_model(adapter)


def classify(path, image):
    """The most likely class by Model API, and its probability."""
    ((_, name, probability),) = [
        (label.id, label.name, label.confidence)
        for label in classifier(path)(cv2.imread(str(image), UNTURNED)).top_labels
    ]
    return name, float(probability)


def predicted(path, image):
    with open_subject(path) as subject:
        (row,) = subject.probabilities(subject.preprocessor.read(image)[None])
    return NAMES[int(row.argmax())], float(row.max())


@pytest.mark.parametrize("name", CASES)
def test_the_digits_are_classified_with_names_that_hold_spaces(export, digits, classes, tmp_path, name):
    path = export("openvino", digits, tmp_path / "m.xml", labels=classes, **CASES[name]).path
    for image in IMAGES:
        assert classify(path, image)[0] == predicted(path, image)[0]
        sized = tmp_path / image.name  # of the input's size, so that neither resizes it
        Image.open(image).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC).save(sized)
        label, probability = classify(path, sized)
        assert (label, pytest.approx(probability, abs=1e-4)) == predicted(path, sized)


def test_colors_and_each_channels_mean_are_as_timm_prepares_them(export, tmp_path):
    """Random weights that the colors of an image of the input's own size matter to, so that nothing is resized."""
    model = awaken(timm.create_model("test_resnet", num_classes=10, in_chans=3))
    model.pretrained_cfg = model.pretrained_cfg | {
        "mean": (0.2, 0.5, 0.7),
        "std": (0.3, 0.2, 0.4),
        "crop_pct": 1.0,
    }
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS))
    path = export("openvino", model, tmp_path / "m.xml", labels=labels).path
    pixels = np.random.default_rng(0).integers(0, 256, (6, 160, 160, 3), np.uint8)
    pixels[1::2, :, :, 0] //= 4
    upside_down = Image.Exif()
    upside_down[0x0112] = 3  # the orientation
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png", exif=upside_down)
        label, probability = classify(path, tmp_path / f"{number}.png")
        assert (label, pytest.approx(probability, abs=1e-4)) == predicted(path, tmp_path / f"{number}.png")


@pytest.mark.parametrize(("size", "crop_mode"), [((96, 160), "center"), ((160, 96), "border")])
def test_inputs_that_are_not_square(export, tmp_path, size, crop_mode):
    """Its `crop` takes the inverse of the aspect ratio: images are stretched instead, which keeps those of this one."""
    model = awaken(timm.create_model("test_resnet", num_classes=10))
    model.pretrained_cfg = model.pretrained_cfg | {"crop_pct": 1.0, "interpolation": "bilinear"}
    model.pretrained_cfg["crop_mode"] = crop_mode
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS))
    result = export("openvino", model, tmp_path / "m.xml", labels=labels, input_size=(3, *size))
    assert (crop_mode == "center") == any(
        "no crop to a shape that is not square" in note for note in result.notes
    )
    colors = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    for number, color in enumerate(colors):
        for times in (1, 2):
            image = tmp_path / f"{number}-{times}.png"
            width, height = size[1] * times, size[0] * times
            Image.fromarray(color).resize((width, height), Image.Resampling.BICUBIC).save(image)
            label, probability = classify(result.path, image)
            tolerance = 1e-4 if times == 1 else 0.05  # it resizes without antialiasing
            assert (label, pytest.approx(probability, abs=tolerance)) == predicted(result.path, image)


def test_what_xml_cannot_hold_is_replaced_in_names(export, digits, tmp_path):
    labels = tmp_path / "labels.json"
    names = ["a\uffffb", "\ufffe", "tab\there", '"<&>"', "a\u2028b", "é 漢", "6", "7", "8", "9"]
    labels.write_text(json.dumps(names))
    path = export("openvino", digits, tmp_path / "m.xml", labels=labels).path
    shown = ["a_b", "_", "tab_here", '"<&>"', "a_b", "é_漢", "6", "7", "8", "9"]
    assert classifier(path).params.labels == shown
    assert load("openvino").read_metadata(path)["labels"] == names


def test_what_model_api_lacks_is_said(export, tmp_path):
    result = export("openvino", timm.create_model("test_efficientnet"), tmp_path / "m.xml", verify=False)
    text = result.path.read_text()
    assert '<resize_type value="crop" />' in text
    (note,) = [note for note in result.notes if "Model API" in note]
    assert re.search(r"no crop of \d+ % of the resized image", note)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_classes": 0}, "its outputs are not classes"),
        ({"in_chans": 1}, "it takes images with 1 channels, not colors"),
        ({"batch_size": 2}, "its batch size is not 1"),
        ({"num_classes": 1}, "it has only one class"),
        ({"num_classes": 1, "multi_label": True}, "it has only one class"),
        ({"sigmoid": True}, "it applies a sigmoid itself"),
        ({"sigmoid": True, "multi_label": True}, "it applies a sigmoid itself"),
    ],
)
def test_files_that_its_classifier_cannot_run_have_no_entries(export, tmp_path, options, reason):
    result = export("openvino", "test_resnet", tmp_path / "m.xml", verify=False, **options)
    assert "<model_info>" not in result.path.read_text()
    assert any(reason in note for note in result.notes)
