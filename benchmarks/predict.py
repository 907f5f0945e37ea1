"""`timmx predict` on many photographs, compared with one at a time and with timm's loader and PyTorch.

    uv run benchmarks/predict.py [--images 1000] [--models digits mobilenetv3_small_100 resnet50] [--rounds 3]

For each model, an ONNX file with a dynamic batch size classifies JPEGs of 500 x 375 pixels. The ways take turns,
`--rounds` times:

- `one at a time`: each image is decoded, then run separately, in one thread in addition to the runtime's own. The
  baseline.
- `stream`: as in `timmx predict`: `open_for_stream` chooses the runtime's threads, `answers` decodes in parallel. The
  time to open the file is included, as in the baseline.
- `timm loader`: PyTorch in eager mode, fed by `timm.data.create_loader` with one worker process per core and batches
  of 64, as in timm's `inference.py`; the start of the processes is included.

Prints milliseconds per image (the best round) and the speedup compared with the baseline (the median of the rounds'
ratios, the smallest and the largest). Then prints the peak memory of `timmx predict` for a quarter of the images and
for all.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import timmx
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image
from timmx.base.threads import usable_cores
from timmx.testing import awaken
from timmx.tools.subject.stream import answers, open_for_stream
from timmx.tools.subject.subject import describe, open_subject

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
SIZE = (500, 375)
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "retina", "rocket")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--models", nargs="+", default=["digits", "mobilenetv3_small_100", "resnet50"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_photographs(folder / "all", arguments.images)
        few = folder / "few"
        few.mkdir()
        for path in paths[: len(paths) // 4]:
            (few / path.name).hardlink_to(path)
        print(f"{len(paths)} images, {usable_cores()} cores")
        print("| model | one at a time | stream | timm loader | memory, a quarter | memory, all |")
        print("| --- | --- | --- | --- | --- | --- |")
        for model in arguments.models:
            file, module = exported(model, folder)
            cells = [*compare(file, module, paths, arguments.rounds)]
            cells += [f"{peak_mb(file, images):.0f} MB" for images in (few, paths[0].parent)]
            print(f"| {model} | {' | '.join(cells)} |")


def write_photographs(folder: Path, count: int) -> list[Path]:
    """Parts of photographs at random places and scales, as JPEG."""
    folder.mkdir()
    photographs = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS]
    photographs += [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        scale = rng.uniform(0.5, 1) * min(photograph.width / SIZE[0], photograph.height / SIZE[1])
        width, height = int(SIZE[0] * scale), int(SIZE[1] * scale)
        left = int(rng.integers(0, photograph.width - width + 1))
        top = int(rng.integers(0, photograph.height - height + 1))
        part = photograph.crop((left, top, left + width, top + height))
        part.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)
    return sorted(folder.iterdir())


def exported(name: str, folder: Path) -> tuple[Path, torch.nn.Module]:
    """The model's ONNX file and the model."""
    file = folder / f"{name}.onnx"
    if name == "digits":
        timmx.export("onnx", f"local-dir:{DIGITS}", output=file, dynamic_batch=True)
        return file, timm.create_model(f"local-dir:{DIGITS}", pretrained=True).eval()
    torch.manual_seed(0)
    module = awaken(timm.create_model(name)).eval()
    timmx.export("onnx", module, output=file, dynamic_batch=True, verify=False)
    return file, module


def peak_mb(file: Path, images: Path) -> float:
    """Peak memory of `timmx predict`, started by a small process: Linux counts a parent's memory as its child's."""
    command = [sys.executable, "-m", "timmx", "predict", str(file), str(images), "--csv"]
    code = f"import processes; print(processes.measure({command!r})[1])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def compare(file: Path, module: torch.nn.Module, paths: list[Path], rounds: int) -> list[str]:
    """One cell a way."""
    ways = (lambda: one_at_a_time(file, paths), lambda: stream(file, paths), lambda: loader(module, paths))
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for seconds, way in zip(taken, ways, strict=True):
            start = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - start)
    cells = [f"{1000 * min(taken[0]) / len(paths):.2f} ms"]
    for seconds in taken[1:]:
        ratios = sorted(base / own for base, own in zip(taken[0], seconds, strict=True))
        cells.append(
            f"{1000 * min(seconds) / len(paths):.2f} ms, {statistics.median(ratios):.2f} x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    return cells


def one_at_a_time(file: Path, paths: list[Path]) -> None:
    with open_subject(file, 1) as subject:
        for path in paths:
            subject.probabilities(subject.preprocessor.read(path)[None])


def stream(file: Path, paths: list[Path]) -> None:
    with open_for_stream(describe(file)) as subject:
        for _ in answers(subject, paths):
            pass


def loader(module: torch.nn.Module, paths: list[Path]) -> None:
    config = timm.data.resolve_data_config(model=module)
    dataset = timm.data.ImageDataset(str(paths[0].parent))
    batches = timm.data.create_loader(
        dataset,
        batch_size=64,
        use_prefetcher=False,
        num_workers=usable_cores(),
        device=torch.device("cpu"),
        **config,
    )
    with torch.inference_mode():
        for images, _ in batches:
            module(images).softmax(-1).topk(5)


if __name__ == "__main__":
    main()
