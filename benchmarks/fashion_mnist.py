"""Fashion-MNIST as files: 70,000 gray images of clothes, 28 x 28 pixels, in 10 classes (MIT license).

Debian's package `dataset-fashion-mnist` installs it to /usr/share/datasets/fashion-mnist.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"),
    "Ankle boot",
)


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images (N, 28, 28) and classes (N,) of a part, both uint8.

    Args:
        folder: with the four `.gz` files of the data set.
        part: `train` (60,000 images) or `t10k` (10,000).
    """
    images = np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8)
    labels = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8)
    return images[16:].reshape(-1, 28, 28), labels[8:]


def write(folder: Path, data: Path, part: str, count: int) -> Path:
    """Write the first images of a part as PNG into a folder, with a CSV of path and class index; returns the CSV."""
    images, labels = read(data, part)
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label"))
        for number, (image, label) in enumerate(zip(images[:count], labels[:count], strict=True)):
            Image.fromarray(image).save(folder / f"{number:05}.png")
            rows.writerow((f"{number:05}.png", int(label)))
    return folder / "labels.csv"
