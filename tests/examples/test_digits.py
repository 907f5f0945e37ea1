"""The digits example: a timm checkpoint that classifies its held-out samples, as its README says."""

from pathlib import Path

import pytest
import timm
import torch
from timm.data import ImageDataset, create_transform, resolve_data_config
from torch.utils.data import DataLoader

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
SAMPLES = DIGITS / "samples"


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return timm.create_model(f"local-dir:{DIGITS}", pretrained=True).eval()


@pytest.fixture(scope="module")
def samples(model: torch.nn.Module) -> ImageDataset:
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    return ImageDataset(str(SAMPLES), transform=transform)


@pytest.fixture(scope="module")
def labels_and_logits(model: torch.nn.Module, samples: ImageDataset) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = next(iter(DataLoader(samples, batch_size=len(samples))))
    with torch.inference_mode():
        return labels, model(inputs)


def test_checkpoint_classifies_the_held_out_digits(labels_and_logits):
    labels, logits = labels_and_logits
    assert (logits.argmax(1) == labels).float().mean() > 0.97


def test_logits_depend_on_the_input(labels_and_logits):
    """Most of the output changes with the image, so that an export error is visible."""
    _, logits = labels_and_logits
    assert (logits - logits.mean(0)).square().mean() > 0.5 * logits.square().mean()


def test_there_are_500_samples_in_folders_named_after_the_labels(model, samples):
    label_names = model.pretrained_cfg["label_names"]
    assert len(samples) == 500
    assert sorted(folder.name for folder in SAMPLES.iterdir()) == sorted(label_names)
    # timm's reader numbers the classes in the order of their folders
    assert samples.reader.class_to_idx == {name: index for index, name in enumerate(label_names)}


def test_config_has_classes_license_and_preprocessing(model):
    assert model.num_classes == model.pretrained_cfg["num_classes"] == 10
    assert model.pretrained_cfg["architecture"] == "test_efficientnet"
    assert model.pretrained_cfg["license"] == "apache-2.0"
    assert "CC BY 4.0" in model.pretrained_cfg["description"]
    data_config = resolve_data_config({}, model=model)
    assert tuple(data_config["input_size"]) == (3, 64, 64)
    assert data_config["interpolation"] == "bicubic"
    assert (data_config["crop_pct"], data_config["crop_mode"]) == (1.0, "center")
    assert data_config["mean"] == pytest.approx([0.309] * 3)
    assert data_config["std"] == pytest.approx([0.349] * 3)


def test_example_is_small():
    size_bytes = sum(path.stat().st_size for path in DIGITS.rglob("*") if path.is_file())
    assert size_bytes < 3_000_000
