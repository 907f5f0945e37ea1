"""Latency of `timmx onnx --mode int8` compared with the float32 file, in ONNX Runtime with one thread.

    uv run benchmarks/onnx_int8.py [--models DIR] [--names NAME ...] [--runs 100] [--reduce-range]

`--models` is a folder of `local-dir:` models, which are measured at their own size; `--names` are models of timm at 224
pixels with awakened random weights. Both files of a model run in turns. Prints the fastest and the median run of each,
their ratio, and the share of the multiply-adds that is computed in integers. The ratio depends on the CPU: operators
are chosen by a table of a CPU with VNNI, with `--reduce-range` by one of a CPU without it (docs/onnx.md).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import timm
import timmx
from timmx.errors import TimmxError
from timmx.testing import awaken

NAMES = ("resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "convnext_atto", "mobilenetv3_small_050")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--reduce-range", action="store_true")
    arguments = parser.parse_args()
    folders = sorted(arguments.models.iterdir()) if arguments.models else []
    models = [(path.name, f"local-dir:{path}") for path in folders if (path / "config.json").is_file()]
    print("| model | size | fp32 | int8 | ratio of the fastest | of the median | in integers |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models:
            report(name, model, Path(folder), arguments)
        for name in arguments.names:
            report(name, awaken(timm.create_model(name)), Path(folder), arguments)


def report(name: str, model: object, folder: Path, arguments: argparse.Namespace) -> None:
    try:
        plain = timmx.export("onnx", model, output=folder / "fp32.onnx", force=True, verify=False)
        integer = timmx.export(
            "onnx",
            model,
            output=folder / "int8.onnx",
            force=True,
            verify=False,
            mode="int8",
            random_calibration=True,
            reduce_range=arguments.reduce_range,
        )
    except TimmxError as exc:
        print(f"| {name} | {exc.message} | | | | | |", flush=True)
        return
    times = in_turns([plain.path, integer.path], arguments.runs)
    fastest, medians = ([function(item) for item in times] for function in (min, statistics.median))
    text = next(entry.value for entry in onnx.load(integer.path).metadata_props if entry.key == "timmx")
    metadata = json.loads(text)
    share = metadata["format"]["quantization_plan"]["integer_share"]
    print(
        f"| {name} | {metadata['input']['size'][-1]} px | {1e3 * fastest[0]:.2f} ms | {1e3 * fastest[1]:.2f} ms | "
        f"{fastest[1] / fastest[0]:.2f} | {medians[1] / medians[0]:.2f} | {100 * share:.0f} % |",
        flush=True,
    )


def in_turns(paths: list[Path], runs: int) -> list[list[float]]:
    """The seconds of each run of each file, which run alternately."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        for path in paths
    ]
    shape = sessions[0].get_inputs()[0].shape
    inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    times: list[list[float]] = [[] for _ in paths]
    for number in range(runs + 5):
        for session, measured in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, {"input": inputs})
            if number >= 5:
                measured.append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
