"""The time that `timmx predict` takes to compare a file with the one that timmx wrote, of one image.

    uv run benchmarks/changed_files.py [--megabytes 100] [--rounds 7]

The file is the digits model as ONNX with unused weights, so that everything else is fast. The cases take turns:

- `unknown`: nothing is known of the file, so that it is not hashed. The baseline.
- `first`: it is hashed, as in the first run after it was copied.
- `later`: its hash is in the cache.

Prints the median of the times in seconds, and of their ratios to the baseline.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import timmx

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = write_file(folder, arguments.megabytes)
        manifest = folder / "timmx.json"
        entry = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        predict(file, folder)
        times: dict[str, list[float]] = {"unknown": [], "first": [], "later": []}
        for _ in range(arguments.rounds):
            for case, seconds in times.items():
                manifest.unlink(missing_ok=True)
                if case != "unknown":
                    manifest.write_text(json.dumps({"artifacts": {file.name: entry}}))
                if case == "first":
                    os.utime(file)
                seconds.append(predict(file, folder))
    for case, seconds in times.items():
        ratios = [own / base for own, base in zip(seconds, times["unknown"], strict=True)]
        print(f"{case:8} {statistics.median(seconds):.2f} s, {statistics.median(ratios):.3f} times")


def write_file(folder: Path, megabytes: int) -> Path:
    result = timmx.export("onnx", f"local-dir:{DIGITS}", output=folder / "digits.onnx", verify=False)
    model = onnx.load(result.path)
    weights = np.random.default_rng(0).normal(size=megabytes * 250_000).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "unused"))
    path = folder / "large.onnx"
    onnx.save(model, path)
    return path


def predict(file: Path, cache: Path) -> float:
    image = next((DIGITS / "samples" / "3").glob("*.png"))
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "timmx", "predict", file, image],
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
