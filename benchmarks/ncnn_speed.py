"""Latency of ncnn files compared with ONNX Runtime, the time of an export, what pnnx converts, and ncnn with Vulkan.

    uv run benchmarks/ncnn_speed.py latency [--names NAME ...] [--seconds 3] [--files DIR]
    uv run --with pnnx benchmarks/ncnn_speed.py export [--names NAME ...] [--runs 3]
    uv run --with pnnx benchmarks/ncnn_speed.py pnnx [--names NAME ...]
    uv run benchmarks/ncnn_speed.py vulkan [--names NAME ...] [--files DIR]

`latency` measures the files of a model with `timmx bench` with one thread, both in turns, and prints the median times
and their ratio. Weights are random and awakened. `export` compares `timmx ncnn --no-verify` with a process that creates
the model and calls `pnnx.export`, each a new process, in turns: the fastest run of each counts. `pnnx` converts the
captured program with pnnx, from TorchScript and from ONNX, and with timmx, and prints the ratio in ncnn. `vulkan`
prints the ratio of both modes on the CPU and on the first device with Vulkan, and that of simulated half precision.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import timmx
import torch
from processes import fastest
from timmx.capture import capture
from timmx.plugin import HalfPrecisionProgram, worst_db
from timmx.testing import awaken
from timmx.tools.bench import bench
from timmx_ncnn.convert import convert
from timmx_ncnn.network import compute, new_net
from timmx_ncnn.write import to_text, write_weights

VULKAN = ("test_resnet", "test_vit", "mobilenetv3_small_050", "convnext_atto")

NAMES = ("resnet18", "mobilenetv3_small_050", "efficientnet_b0", "vit_tiny_patch16_224", "convnext_atto")

FAMILIES = (
    "test_resnet mobilenetv3_small_050 convnext_atto test_vit swin_tiny_patch4_window7_224 halonet_h1 coat_tiny "
    "mvitv2_tiny nest_tiny levit_128s"
).split()

PLAIN = """
import sys, timm, torch, pnnx
name, path = sys.argv[1:]
model = timm.create_model(name).eval()
pnnx.export(model, path, (torch.zeros(1, *model.pretrained_cfg["input_size"]),), fp16=False, check_trace=False)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("latency", "export", "pnnx", "vulkan"))
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--files", type=Path, help="a folder for the files, which a later run uses again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.files or Path(name)
        if arguments.what == "latency":
            print("| model | ONNX Runtime | ncnn | ratio |\n| --- | --- | --- | --- |")
            for model in arguments.names or NAMES:
                latency(model, folder, arguments.seconds)
        elif arguments.what == "export":
            print("| model | plain script | `timmx ncnn --no-verify` | ratio |\n| --- | --- | --- | --- |")
            for model in arguments.names or NAMES:
                export(model, folder, arguments.runs)
        elif arguments.what == "vulkan":
            print("| model | mode | CPU | Vulkan | simulated |\n| --- | --- | --- | --- | --- |")
            for model in arguments.names or VULKAN:
                devices(model, folder)
        else:
            print("| model | pnnx from TorchScript | pnnx from ONNX | timmx |\n| --- | --- | --- | --- |")
            for model in arguments.names or FAMILIES:
                converters(model, folder)


def latency(name: str, folder: Path, seconds: float) -> None:
    files = {"onnx": folder / f"{name}.onnx", "ncnn": folder / f"{name}.param"}
    for backend, path in files.items():
        if not path.exists():
            timmx.export(backend, awaken(timm.create_model(name)), output=path, verify=False)
    onnx, ncnn = (
        case.p50_ms or 0.0 for case in bench(list(files.values()), threads=(1,), seconds=seconds).cases
    )
    print(f"| {name} | {onnx:.2f} ms | {ncnn:.2f} ms | {ncnn / onnx:.2f} |", flush=True)


def export(name: str, folder: Path, runs: int) -> None:
    plain = [sys.executable, "-c", PLAIN, name, str(folder / "plain.pt")]
    ours = [sys.executable, "-m", "timmx", "ncnn", name, "--no-verify", "--force"]
    ours += ["-o", str(folder / "ours.param")]
    first, second = fastest((plain, ours), runs)
    print(f"| {name} | {first:.1f} s | {second:.1f} s | {second / first:.2f} |", flush=True)


def devices(name: str, folder: Path) -> None:
    """Two rows: the file of each mode on the CPU and with Vulkan."""
    model, inputs, expected = awakened(name)
    program = capture(model, inputs[:1], dynamic=False)
    simulated = HalfPrecisionProgram(program, inputs.numpy()).snr_db(())
    for mode, note in (("fp32", ""), ("fp16", f"{simulated:.0f} dB")):
        path = folder / f"{name}-{mode}.param"
        timmx.export("ncnn", model, output=path, verify=False, mode=mode)
        ratios = []
        for device in ("cpu", "gpu"):
            with timmx.open(path, runtime_device=device) as runner:
                rows = [runner.run({"input": array[None]})["output"] for array in inputs.numpy()]
            ratios.append(f"{worst_db([expected], [np.concatenate(rows)]):.0f} dB")
        print(f"| {name} | {mode} | {' | '.join(ratios)} | {note} |", flush=True)


def awakened(name: str) -> tuple[torch.nn.Module, torch.Tensor, np.ndarray]:
    """A model, four inputs, and its outputs for them."""
    model = awaken(timm.create_model(name)).eval()
    size = model.pretrained_cfg["input_size"]
    inputs = torch.randn(4, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, inputs, model(inputs).numpy()


def converters(name: str, folder: Path) -> None:
    """One row: the same captured program, awakened, converted in three ways."""
    model, inputs, expected = awakened(name)
    size = tuple(inputs.shape[1:])
    program = capture(model, inputs[:1], dynamic=False)
    script, graph = folder / "m.pt", folder / "m.onnx"
    torch.jit.trace(program.module(check_guards=False), inputs[:1], check_trace=False).save(script)
    results = [pnnx(script, size, inputs, expected)]
    try:
        torch.onnx.export(program, (inputs[:1],), graph, dynamo=True, external_data=False, verbose=False)
    except torch.onnx.errors.OnnxExporterError:
        results.append("no ONNX")
    else:
        results.append(pnnx(graph, size, inputs, expected))
    layers = convert(program, ["output"])
    (folder / "m.param").write_text(to_text(layers))
    with (folder / "m.bin").open("wb") as file:
        write_weights(layers, file, half=False)
    results.append(ratio(folder / "m.param", folder / "m.bin", ("input", "output"), inputs, expected))
    print(f"| {name} | {' | '.join(results)} |", flush=True)


def pnnx(source: Path, size: tuple[int, ...], inputs: torch.Tensor, expected: np.ndarray) -> str:
    """Convert with pnnx's program, in a process of its own, and run the result."""
    spec = importlib.util.find_spec("pnnx")
    assert spec is not None, "uv run --with pnnx"
    assert spec.origin is not None
    param, weights = source.with_suffix(".ncnn.param"), source.with_suffix(".ncnn.bin")
    shape = ",".join(map(str, (1, *size)))
    command = [str(Path(spec.origin).with_name("pnnx")), str(source), f"inputshape=[{shape}]", "fp16=0"]
    done = subprocess.run(
        [*command, f"ncnnparam={param}", f"ncnnbin={weights}"], capture_output=True, timeout=600
    )
    if done.returncode:
        return f"exit code {done.returncode}"
    return ratio(param, weights, ("in0", "out0"), inputs, expected)


def ratio(
    param: Path, weights: Path, names: tuple[str, str], inputs: torch.Tensor, expected: np.ndarray
) -> str:
    """The ratio of a file in ncnn, or why there is none."""
    net = new_net(half=False, threads=1)
    if net.load_param(str(param)) or net.load_model(str(weights)):
        return "not loaded"
    rows = [compute(net, {names[0]: array}, names[1:])[0] for array in inputs.numpy()]
    return f"{worst_db([expected], [np.stack(rows).reshape(expected.shape)]):.0f} dB"


if __name__ == "__main__":
    main()
