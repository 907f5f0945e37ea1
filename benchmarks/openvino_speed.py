"""Latency of OpenVINO files compared with ONNX Runtime, and the time of an export compared with a plain script.

    uv run benchmarks/openvino_speed.py latency [--names NAME ...] [--seconds 3] [--files DIR]
    uv run benchmarks/openvino_speed.py export [--names NAME ...] [--runs 3]

`latency` measures the files of a model with `timmx bench` with one thread, all in turns: fp32 in ONNX Runtime, fp32 and
int8 in OpenVINO, and prints the median times and their ratios. Weights are random and awakened; int8 is calibrated on
synthetic images. `export` compares `timmx openvino --no-verify` with a process that creates the model, exports it with
`torch.export` and calls `openvino.convert_model` and `openvino.save_model`, each a new process, in turns: the fastest
run of each counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import timm
import timmx
from processes import fastest
from timmx.testing import awaken
from timmx.tools.bench import bench

NAMES = ("resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0", "mobilenetv3_small_050")

PLAIN = """
import sys, timm, torch, openvino
name, path = sys.argv[1:]
model = timm.create_model(name).eval()
inputs = torch.zeros(1, *model.pretrained_cfg["input_size"])
program = torch.export.export(model, (inputs,))
openvino.save_model(openvino.convert_model(program, input=[list(inputs.shape)]), path, compress_to_fp16=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("latency", "export"))
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--files", type=Path, help="a folder for the files, which a later run uses again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.files or Path(name)
        if arguments.what == "latency":
            print("| model | ONNX Runtime fp32 | fp32 | ratio | int8 | int8 / fp32 |")
            print("| --- | --- | --- | --- | --- | --- |")
            for model in arguments.names:
                latency(model, folder, arguments.seconds)
        else:
            print("| model | plain script | `timmx openvino --no-verify` | ratio |")
            print("| --- | --- | --- | --- |")
            for model in arguments.names:
                export(model, folder, arguments.runs)


def latency(name: str, folder: Path, seconds: float) -> None:
    files = {
        "onnx": ("onnx", folder / f"{name}.onnx", {}),
        "fp32": ("openvino", folder / f"{name}.xml", {}),
        "int8": ("openvino", folder / f"{name}-int8.xml", {"mode": "int8", "random_calibration": True}),
    }
    for backend, path, options in files.values():
        if not path.exists():
            timmx.export(backend, awaken(timm.create_model(name)), output=path, verify=False, **options)
    cases = bench([path for _, path, _ in files.values()], threads=(1,), seconds=seconds).cases
    onnx, fp32, int8 = (case.p50_ms or 0.0 for case in cases)
    print(
        f"| {name} | {onnx:.2f} ms | {fp32:.2f} ms | {fp32 / onnx:.2f} | {int8:.2f} ms | {int8 / fp32:.2f} |",
        flush=True,
    )


def export(name: str, folder: Path, runs: int) -> None:
    plain = [sys.executable, "-c", PLAIN, name, str(folder / "plain.xml")]
    ours = [sys.executable, "-m", "timmx", "openvino", name, "--no-verify", "--force"]
    ours += ["-o", str(folder / "ours.xml")]
    first, second = fastest((plain, ours), runs)
    print(f"| {name} | {first:.1f} s | {second:.1f} s | {second / first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
