"""Accuracy of integer files on Fashion-MNIST, compared with the float file of the same format.

    uv run benchmarks/int8_accuracy.py --models DIR [--data DIR] [--images 10000] [--calibration 512] [--only NAME]

Each folder in `--models` is a `local-dir:` model with the classes of Fashion-MNIST, such as those of
`benchmarks/train_fashion_mnist.py`. `--data` holds the four files of the data set; Debian's package
`dataset-fashion-mnist` installs them. Calibration uses training images, accuracy test images, both from the beginning.

Prints a row per model and file: top-1 accuracy, the difference from the format's float file in points with its 95 %
interval (paired, in how many images each of the two alone is right), the share of images with the same class as the
float file, size and time of the export. A file that is refused has its reason.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import fashion_mnist
import timmx
from timmx.errors import TimmxError
from timmx.tools.eval import evaluate

FLOAT = "float"
FILES = {
    "onnx": {
        FLOAT: {},
        "weight-int8": {"mode": "weight-int8"},
        "weight-int4": {"mode": "weight-int4"},
        "int8": {"mode": "int8"},
        "int8 --reduce-range": {"mode": "int8", "reduce_range": True},
    },
    "litert": {
        FLOAT: {},
        "weight-int8": {"mode": "weight-int8"},
        "dynamic-int8": {"mode": "dynamic-int8"},
        "int8": {"mode": "int8"},
        "int16x8": {"mode": "int16x8"},
    },
    "openvino": {
        FLOAT: {},
        "fp16": {"mode": "fp16"},
        "weight-int8": {"mode": "weight-int8"},
        "weight-int4": {"mode": "weight-int4"},
        "int8": {"mode": "int8"},
    },
    "tensorrt": {
        FLOAT: {"onnx_only": True, "mode": "fp32"},
        "int8": {"onnx_only": True, "mode": "int8"},
    },
    "executorch": {
        FLOAT: {},
        "weight-int8": {"mode": "weight-int8"},
        "dynamic-int8": {"mode": "dynamic-int8"},
        "int8": {"mode": "int8"},
    },
    "coreml": {
        FLOAT: {"compute_precision": "float32"},
        "int8": {"quantize": "int8"},
    },
}
"""The options of each file, by format."""
SUFFIXES = {
    "onnx": ".onnx",
    "litert": ".tflite",
    "openvino": ".xml",
    "tensorrt": ".onnx",
    "executorch": ".pte",
    "coreml": ".mlpackage",
}
CALIBRATED = {
    ("onnx", "int8"),
    ("onnx", "int8 --reduce-range"),
    ("litert", "int8"),
    ("litert", "int16x8"),
    ("openvino", "int8"),
    ("tensorrt", "int8"),
    ("executorch", "int8"),
}


@dataclass(frozen=True)
class Row:
    """One file. `right` and `classes` are in the order of the images."""

    size_bytes: int
    seconds: float
    right: list[bool]
    classes: list[int | None]

    @property
    def top1(self) -> float:
        return 100 * sum(self.right) / len(self.right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=fashion_mnist.DATA)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--only", action="append", help="models or formats; repeat for several")
    arguments = parser.parse_args()
    only = set(arguments.only or ())
    models = sorted(path for path in arguments.models.iterdir() if (path / "config.json").is_file())
    models = [path for path in models if not only & {model.name for model in models} or path.name in only]
    formats = [name for name in FILES if not only & FILES.keys() or name in only]
    print("| model | file | top-1 | points | same class | size | export |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        test = fashion_mnist.write(folder / "test", arguments.data, "t10k", arguments.images)
        calibration = fashion_mnist.write(
            folder / "train", arguments.data, "train", arguments.calibration
        ).parent
        for model in models:
            for backend in formats:
                report(model, backend, test, calibration, folder)


def report(model: Path, backend: str, test: Path, calibration: Path, folder: Path) -> None:
    """Print the rows of a model in a format."""
    base: Row | None = None
    for name, options in FILES[backend].items():
        own = {"calibration_data": calibration} if (backend, name) in CALIBRATED else {}
        try:
            row = measure(model, backend, options | own, test, folder)
        except TimmxError as exc:
            print(f"| {model.name} | {backend} {name} | {exc.message} | | | | |", flush=True)
            continue
        base = row if name == FLOAT else base
        cells = [f"{row.top1:.2f} %", "", "", f"{row.size_bytes / 1e6:.2f} MB", f"{row.seconds:.0f} s"]
        if base is not None and row is not base:
            points, margin = difference(row.right, base.right)
            same = sum(one == other for one, other in zip(row.classes, base.classes, strict=True))
            cells[1:3] = f"{points:+.2f} ± {margin:.2f}", f"{100 * same / len(row.classes):.2f} %"
        print(f"| {model.name} | {backend} {name} | {' | '.join(cells)} |", flush=True)


def measure(model: Path, backend: str, options: dict[str, object], test: Path, folder: Path) -> Row:
    began = time.perf_counter()
    result = timmx.export(
        backend,
        f"local-dir:{model}",
        output=folder / f"{model.name}{SUFFIXES[backend]}",
        force=True,
        **options,
    )
    seconds = time.perf_counter() - began
    found = evaluate(result.path, test)
    classes = [reading.read for reading in found.readings]
    right = [number == image.truth for number, image in zip(classes, found.images, strict=True)]
    return Row(result.size_bytes, seconds, right, classes)


def difference(right: list[bool], base: list[bool]) -> tuple[float, float]:
    """How many points more images are right than in the base, and half of the 95 % interval.

    Source: McNemar (1947): only images count of which one of the two is right.
    """
    count = len(right)
    won = sum(own and not other for own, other in zip(right, base, strict=True))
    lost = sum(other and not own for own, other in zip(right, base, strict=True))
    margin = 1.96 * math.sqrt(max(won + lost - (won - lost) ** 2 / count, 0)) / count
    return 100 * (won - lost) / count, 100 * margin


if __name__ == "__main__":
    main()
