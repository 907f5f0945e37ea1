"""Accuracy and latency of int8 by two quantizers in ONNX Runtime: timmx (onnxruntime's, by a plan) and NNCF's defaults.

    uv run --with nncf benchmarks/onnx_quantizers.py --models DIR [--data DIR] [--images 10000] [--only NAME]

`--models` and `--data` are those of `benchmarks/int8_accuracy.py`. Both quantizers get the same float32 file and 300
training images, the number that NNCF recommends. NNCF runs with its defaults (fast bias correction), for transformers
with its `transformer` model type (SmoothQuant), each with its two presets. Prints top-1 accuracy, the difference from
the float32 file in points with its 95 % interval, and the latency relative to that file, all files in turns with one
thread.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import fashion_mnist
import nncf
import onnx
import timm.data
import timmx
from int8_accuracy import difference
from onnx_int8 import in_turns
from PIL import Image
from timmx.tools.eval import evaluate

if TYPE_CHECKING:
    import numpy as np

CALIBRATION = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=fashion_mnist.DATA)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--only", action="append", help="models; repeat for several")
    arguments = parser.parse_args()
    print(
        "| model | quantizer | top-1 | points | latency, fastest of its runs |\n| --- | --- | --- | --- | --- |"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        test = fashion_mnist.write(folder / "test", arguments.data, "t10k", arguments.images)
        train = fashion_mnist.write(folder / "train", arguments.data, "train", CALIBRATION).parent
        for path in sorted(arguments.models.iterdir()):
            if (path / "config.json").is_file() and path.name in (arguments.only or [path.name]):
                report(path, test, train, folder, arguments.runs)


def report(model: Path, test: Path, train: Path, folder: Path, runs: int) -> None:
    """Print the rows of a model."""
    plain = timmx.export("onnx", f"local-dir:{model}", output=folder / "float.onnx", force=True, verify=False)
    integer = timmx.export(
        "onnx",
        f"local-dir:{model}",
        output=folder / "timmx.onnx",
        force=True,
        mode="int8",
        calibration_data=train,
        calibration_samples=CALIBRATION,
    )
    inputs = [{"input": image} for image in preprocessed(model, train)]
    files = {"float32": plain.path, "timmx": integer.path}
    for preset in nncf.QuantizationPreset:
        files[f"NNCF, {preset.value}"] = nncf_file(plain.path, inputs, preset, folder)
    times = [min(found) for found in in_turns([*files.values()], runs)]
    truth: list[list[bool]] = []
    for (name, path), seconds in zip(files.items(), times, strict=True):
        found = evaluate(path, test)
        truth.append(
            [reading.read == image.truth for reading, image in zip(found.readings, found.images, strict=True)]
        )
        points, margin = difference(truth[-1], truth[0])
        print(
            f"| {model.name} | {name} | {100 * sum(truth[-1]) / len(truth[-1]):.2f} % | {points:+.2f} ± {margin:.2f} "
            f"| {1e3 * seconds:.2f} ms, {seconds / times[0]:.2f} |",
            flush=True,
        )


def preprocessed(model: Path, train: Path) -> list[np.ndarray]:
    """The images of a folder as timm preprocesses them for a model, each (1, 3, H, W) float32."""
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{model}"))
    transform = timm.data.create_transform(**config)
    return [transform(Image.open(path).convert("RGB"))[None].numpy() for path in sorted(train.glob("*.png"))]


def nncf_file(
    source: Path, inputs: list[dict[str, np.ndarray]], preset: nncf.QuantizationPreset, folder: Path
) -> Path:
    """A file quantized by NNCF, with the metadata of its source."""
    model = onnx.load(source)
    transformer = any(node.op_type == "Softmax" for node in model.graph.node)
    result = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=CALIBRATION,
        preset=preset,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    path = folder / f"nncf-{preset.value}.onnx"
    onnx.save(result, path)
    return path


if __name__ == "__main__":
    main()
