"""Files of `timmx openvino` compared with what OpenVINO makes of the ONNX file of the same model.

    uv run benchmarks/openvino_routes.py files DIR [--names NAME ...]
    uv run benchmarks/openvino_routes.py measure DIR [--names NAME ...] [--seconds 1]

`files` writes both files of each model into a folder: through OpenVINO's PyTorch front end, as `timmx openvino` does,
and through `timmx onnx` and `openvino.convert_model`. Weights are random and awakened. `measure` runs them with one
thread, in turns, and prints a row per model: the median latency of each and their ratio, the operations of each file
without constants, those that the CPU executes after OpenVINO has fused them, and the signal-to-noise ratio of each
against PyTorch in float64, on four random inputs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import openvino
import timm
import timmx
import torch
from timmx.testing import awaken

NAMES = (
    "resnet18",
    "regnety_002",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "ghostnet_050",
    "convnext_atto",
    "fastvit_t8",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "vit_tiny_patch16_224",
    "eva02_tiny_patch14_224",
    "pvt_v2_b0",
    "xcit_nano_12_p8_224",
    "swin_tiny_patch4_window7_224",
    "halonet_h1",
)
ROUTES = ("front end", "onnx")
SAMPLES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("files", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--seconds", type=float, default=1)
    arguments = parser.parse_args()
    if arguments.what == "measure":
        print("| model | front end | ONNX | ratio | operations | executed | dB |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.names:
        if arguments.what == "files":
            write(name, arguments.folder)
        else:
            print(f"| {name} | {measure(name, arguments.folder, arguments.seconds)} |", flush=True)


def write(name: str, folder: Path) -> None:
    """Write the files of both routes, inputs, and what PyTorch computes for them in float64."""
    model = awaken(timm.create_model(name)).eval()
    onnx = folder / f"{name}.onnx"
    options = {"verify": False, "force": True}
    timmx.export("openvino", model, output=path(folder, name, "front end"), **options)
    timmx.export("onnx", model, output=onnx, **options)
    converted = openvino.convert_model(onnx)
    openvino.save_model(converted, path(folder, name, "onnx"), compress_to_fp16=False)
    inputs = torch.randn(
        SAMPLES, *model.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        exact = model.double()(inputs.double())
    np.savez(folder / f"{name}.npz", inputs=inputs.numpy(), exact=exact.numpy())


def path(folder: Path, name: str, route: str) -> Path:
    return folder / f"{name}-{route.replace(' ', '-')}.xml"


def measure(name: str, folder: Path, seconds: float) -> str:
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    models = [core.read_model(path(folder, name, route)) for route in ROUTES]
    compiled = [core.compile_model(model, "CPU", settings) for model in models]
    requests = [model.create_infer_request() for model in compiled]
    stored = np.load(folder / f"{name}.npz")
    batches = [stored["inputs"][index : index + 1] for index in range(SAMPLES)]
    ratios = [snr_db(stored["exact"], [request.infer([x])[0] for x in batches]) for request in requests]
    times: list[list[float]] = [[] for _ in requests]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for request, measured in zip(requests, times, strict=True):
            start = time.perf_counter()
            request.infer([batches[0]])
            measured.append(1000 * (time.perf_counter() - start))
    first, second = (statistics.median(measured) for measured in times)
    operations = " / ".join(str(count(model)) for model in models)
    executed = " / ".join(str(count(model.get_runtime_model())) for model in compiled)
    shown = " / ".join(f"{ratio:.0f}" for ratio in ratios)
    return f"{first:.2f} ms | {second:.2f} ms | {first / second:.2f} | {operations} | {executed} | {shown}"


def count(model: openvino.Model) -> int:
    """The operations without constants, inputs and results; those of a compiled model have their kind in `rt_info`."""
    return sum(
        kind(node) not in ("Constant", "Const", "Parameter", "Input", "Result", "Output")
        for node in model.get_ops()
    )


def kind(node: openvino.Node) -> str:
    info = node.get_rt_info()
    return str(info["layerType"].astype(str)) if "layerType" in info else node.get_type_name()


def snr_db(exact: np.ndarray, outputs: list[np.ndarray]) -> float:
    """The energy of what varies between the inputs against that of the error, as in docs/verification.md."""
    noise = np.concatenate(outputs).astype(np.float64) - exact
    return float(10 * np.log10(np.square(exact - exact.mean(0)).sum() / np.square(noise).sum()))


if __name__ == "__main__":
    main()
