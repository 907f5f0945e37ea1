"""Latency of `.pte` files against ONNX Runtime, and time of an export against a plain script; rows in Markdown.

    OMP_NUM_THREADS=1 uv run benchmarks/pte_speed.py latency [--modes MODE ...] [--files DIR] --models MODEL ...
    OMP_NUM_THREADS=1 uv run benchmarks/pte_speed.py export --models MODEL ...

`latency` exports each model with weights of `--awaken` to ONNX and to ExecuTorch in each mode, and runs all files in
turns with one thread, batch size 1: the fastest run of each, in ms. Files that are in DIR are used again. `export`
starts `timmx executorch --no-verify` and `pte_plain.py` as processes, in turns: the least processor time of two runs,
in seconds.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timmx
import torch

MODES = ("fp32", "fp16", "weight-int8", "dynamic-int8", "int8")
SECONDS = 15
PLAIN = Path(__file__).with_name("pte_plain.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("latency", "export"))
    parser.add_argument("--models", nargs="+", metavar="MODEL", required=True)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--files", type=Path, metavar="DIR")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.what == "latency":
            latency(arguments.models, arguments.modes, arguments.files or Path(name))
        else:
            export(arguments.models, Path(name))


def latency(models: list[str], modes: list[str], folder: Path) -> None:
    print("| model | ONNX Runtime |", " | ".join(modes), f"| {modes[0]} / ONNX Runtime |", flush=True)
    for model in models:
        files = [folder / f"{model}.onnx", *(folder / f"{model}-{mode}.pte" for mode in modes)]
        for path, mode in zip(files, ("", *modes), strict=True):
            own: dict[str, Any] = {"mode": mode} if mode else {}
            if mode == "int8":
                own |= {"random_calibration": True, "calibration_samples": 16}
            if not path.exists():
                backend = "executorch" if mode else "onnx"
                timmx.export(backend, model, output=path, awaken=True, verify=False, **own)
        times = in_turns(files)
        cells = " | ".join(f"{ms:.2f}" for ms in times)
        print(f"| {model} | {cells} | {times[1] / times[0]:.2f} |", flush=True)


def in_turns(files: list[Path]) -> list[float]:
    """The fastest run of each file, in ms."""
    torch.set_num_threads(1)
    runners = [timmx.open(file, threads=1) for file in files]
    shape = [size if isinstance(size, int) else 1 for size in runners[0].inputs[0].shape]
    feeds = {"input": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    best = [float("inf")] * len(files)
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for number, runner in enumerate(runners):
            began = time.perf_counter()
            runner.run(feeds)
            best[number] = min(best[number], 1000 * (time.perf_counter() - began))
    for runner in runners:
        runner.close()
    return best


def export(models: list[str], folder: Path) -> None:
    print("| model | timmx | plain | ratio |", flush=True)
    for model in models:
        commands = {
            "timmx": [
                Path(sys.executable).with_name("timmx"),
                "executorch",
                model,
                "--no-verify",
                "--force",
                "-o",
            ],
            "plain": [sys.executable, PLAIN, model],
        }
        best = dict.fromkeys(commands, float("inf"))
        for _ in range(2):
            for name, command in commands.items():
                began = processor_time()
                subprocess.run([*command, folder / f"{name}.pte"], check=True, capture_output=True)
                best[name] = min(best[name], processor_time() - began)
        print(
            f"| {model} | {best['timmx']:.1f} | {best['plain']:.1f} | {best['timmx'] / best['plain']:.2f} |",
            flush=True,
        )


def processor_time() -> float:
    """Of all processes that have ended, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
