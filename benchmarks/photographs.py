"""Crops of the photographs in scikit-image and scikit-learn, for calibration and evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

if TYPE_CHECKING:
    from pathlib import Path

_CALIBRATION = (
    "astronaut",
    "brick",
    "camera",
    "china.jpg",
    "coffee",
    "immunohistochemistry",
    "moon",
    "retina",
)
_HELD_OUT = (
    "chelsea",
    "coins",
    "flower.jpg",
    "grass",
    "gravel",
    "hubble_deep_field",
    "microaneurysms",
    "rocket",
)
_SIDE = 288
"""Pixels; enough for a model that takes 256."""


def write(folder: Path, calibration: int = 32, held_out: int = 48) -> tuple[Path, Path]:
    """Write square parts as PNG: random places and sizes, half of them mirrored, some darker and some brighter.

    No photograph is in both sets. Equal counts give equal pictures.

    Args:
        folder: where the two folders go.
        calibration: how many pictures to calibrate on.
        held_out: how many pictures to judge by.

    Returns:
        The folders of the calibration pictures and of the others.
    """
    made = []
    for seed, (name, photographs, count) in enumerate(
        (("calibration", _CALIBRATION, calibration), ("held_out", _HELD_OUT, held_out))
    ):
        (folder / name).mkdir()
        rng = np.random.default_rng(seed)
        for number in range(count):
            part = _part(_photograph(photographs[number % len(photographs)]), rng)
            part.save(folder / name / f"{number:03}.png")
        made.append(folder / name)
    return made[0], made[1]


def _photograph(name: str) -> Image.Image:
    pixels = load_sample_image(name) if "." in name else getattr(data, name)()
    return Image.fromarray(pixels).convert("RGB")


def _part(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(min(photograph.size) * rng.uniform(0.4, 1.0))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
    part = photograph.crop((left, top, left + side, top + side)).resize(
        (_SIDE, _SIDE), Image.Resampling.BICUBIC
    )
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    gain = rng.uniform(0.6, 1.4)
    return part.point(lambda value: min(255, round(gain * value)))
