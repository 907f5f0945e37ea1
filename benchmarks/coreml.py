"""Time and peak memory of a Core ML export, compared with plain coremltools scripts; and of the evaluator.

    uv run benchmarks/coreml.py [--rounds 3] [--models resnet50 vit_small_patch16_224]

Whole processes that write a float16 `.mlpackage`, imports included: `timmx coreml`, which also verifies the file on
six inputs; a plain script that passes the program of `torch.export` to coremltools and verifies nothing, since Core
ML is not available; and the same with TorchScript, which fails on vision transformers with numpy 2.4. Prints medians
and their ratios to the plain script.

Then the evaluator of MIL programs on the file: time per run at batch size 1, compared with PyTorch, and memory above
that of the imports, compared with the model's float32 weights.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import ProcessError, measure

PLAIN = """
import sys
import coremltools as ct
import numpy as np
import timm
import torch

name, path, way = sys.argv[1:]
torch.manual_seed(0)
model = timm.create_model(name).eval()
example = torch.rand(1, *model.pretrained_cfg["input_size"])
arguments = {"outputs": [ct.TensorType("output", dtype=np.float32)], "skip_model_load": True}
with torch.no_grad():
    if way == "torchscript":
        source = torch.jit.trace(model, example)
        arguments["inputs"] = [ct.TensorType("input", example.shape)]
    else:
        source = torch.export.export(model, (example,)).run_decompositions({})
    ct.convert(source, convert_to="mlprogram", **arguments).save(path)
"""

EVALUATE = """
import resource
import statistics
import sys
import time
from pathlib import Path
import numpy as np
import timm
import torch
import timmx
import timmx_coreml.mil
import timmx_coreml.runner

name, path = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with timmx.open(path) as runner:
    pixels = np.random.default_rng(0).random(runner.inputs[0].shape, dtype=np.float32)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        runner.run({"input": pixels})
        times.append(time.perf_counter() - start)
    above = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
model = timm.create_model(name).eval()
weights = sum(parameter.nbytes for parameter in model.parameters()) / 2**20
plain = []
with torch.inference_mode():
    for _ in range(6):
        start = time.perf_counter()
        model(torch.from_numpy(pixels))
        plain.append(time.perf_counter() - start)
print(statistics.median(times[1:]), statistics.median(plain[1:]), above / 1024, weights)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit_small_patch16_224"])
    arguments = parser.parse_args()
    timmx = str(Path(sys.executable).parent / "timmx")
    with tempfile.TemporaryDirectory() as folder:
        plain, evaluate = (Path(folder) / name for name in ("plain.py", "evaluate.py"))
        plain.write_text(PLAIN)
        evaluate.write_text(EVALUATE)
        for model in arguments.models:
            output, other = (str(Path(folder) / f"{name}.mlpackage") for name in (model, "plain"))
            cases = {
                "timmx coreml": [timmx, "coreml", model, "-o", output],
                "plain coremltools": [sys.executable, str(plain), model, other, "export"],
                "plain, by TorchScript": [sys.executable, str(plain), model, other, "torchscript"],
            }
            runs: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
            for turn in range(arguments.rounds + 1):
                for name, command in cases.items():
                    measured = _run(command)
                    if turn and measured is not None:
                        runs[name].append(measured)
            baseline = _medians(runs["plain coremltools"])
            print(f"\n{model}")
            for name, found in runs.items():
                if not found:
                    print(f"  {name:24} fails")
                    continue
                time_s, memory = _medians(found)
                print(
                    f"  {name:24}{time_s:8.1f} s  {time_s / baseline[0]:5.2f}"
                    f"{memory:10.0f} MB  {memory / baseline[1]:5.2f}"
                )
            subprocess.run(cases["timmx coreml"], check=True, capture_output=True)
            done = subprocess.run(
                [sys.executable, str(evaluate), model, output], check=True, capture_output=True, text=True
            )
            seconds, torch_seconds, above, weights = map(float, done.stdout.split())
            print(
                f"  evaluator, a run        {seconds:8.2f} s  {seconds / torch_seconds:5.2f} times PyTorch's"
                f"{above:10.0f} MB  {above / weights:5.2f} times the float32 weights"
            )


def _medians(found: list[tuple[float, float]]) -> tuple[float, float]:
    first, second = (statistics.median(run[index] for run in found) for index in (0, 1))
    return first, second


def _run(command: list[str]) -> tuple[float, float] | None:
    """Time and memory; None where the process fails."""
    try:
        return measure(command)
    except ProcessError:
        return None


if __name__ == "__main__":
    main()
