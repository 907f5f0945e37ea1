"""Peak memory and time of the export of large models, compared with the size of their weights.

    uv run benchmarks/large_models.py [--formats onnx torch-export coreml litert] [--models NAME ...]

Each row is one process, `timmx FORMAT MODEL --awaken`, which loads, converts, verifies and publishes. `peak / weights`
is its peak resident memory divided by the bytes of the weights, `without imports` the same after subtracting the peak
of the smallest model, whose weights take nothing; mapped pages of the written file count too. `s per GB` is its wall
time. A format that refuses a model shows the message, and the time until then.

`growth` is the exponent e of the fit `seconds = c * weights ** e` over all sizes, after subtracting the time of the
smallest model: 1 is linear.

The largest needs 15 GB of memory and of disk.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from processes import ProcessError, measure

SMALLEST = "test_vit"
MODELS = [f"vit_{size}" for size in ("small_patch16_224", "base_patch16_224", "large_patch16_224")]
MODELS += ["vit_huge_patch14_224", "vit_giant_patch14_224"]
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "coreml": ".mlpackage", "litert": ".tflite"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--formats", nargs="+", choices=SUFFIXES, default=list(SUFFIXES))
    parser.add_argument("--models", nargs="+", default=MODELS)
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    for name in arguments.formats:
        print(
            f"\n{name:28}{'weights':>10}{'seconds':>9}{'s per GB':>10}{'peak':>10}{'peak / weights':>16}",
            end="",
        )
        print(f"{'without imports':>17}")
        fixed = export(name, SMALLEST)
        points = []
        for model in arguments.models:
            gigabytes = weights_bytes(model) / 1e9
            start = time.perf_counter()
            print(f"{model:28}{gigabytes:7.2f} GB", end="")
            try:
                seconds, peak = export(name, model)
            except ProcessError as exc:
                print(f"{time.perf_counter() - start:9.0f}  {exc.reason}")
                continue
            points.append((gigabytes, seconds - fixed[0]))
            ratios = f"{peak / gigabytes:16.2f}{(peak - fixed[1]) / gigabytes:17.2f}"
            print(f"{seconds:9.0f}{seconds / gigabytes:10.0f}{peak:7.2f} GB{ratios}")
        if len(points) > 1:
            logarithms = [(math.log(size), math.log(seconds)) for size, seconds in points]
            growth = statistics.linear_regression(*zip(*logarithms, strict=True)).slope
            print(f"growth: {growth:.2f}")


def weights_bytes(model: str) -> int:
    with torch.device("meta"):
        return sum(tensor.nbytes for tensor in timm.create_model(model).state_dict().values())


def export(name: str, model: str) -> tuple[float, float]:
    """Wall time in seconds and peak memory in GB of one export."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, f"{model}{SUFFIXES[name]}")
        command = [sys.executable, "-m", "timmx", name, model, "--awaken", "--output", str(output)]
        seconds, megabytes = measure(command)
    return seconds, megabytes * 2**20 / 1e9


if __name__ == "__main__":
    main()
