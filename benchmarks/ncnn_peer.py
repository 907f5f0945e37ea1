"""ncnn files of `timmx ncnn` compared with those of a peer, on the same weights and photographs.

    uv run benchmarks/ncnn_peer.py --peer PYTHON [--names NAME ...] [--limit 6e6] [--images 8] [--seconds 600]

The peer is the package `timmx` 0.10.1 from the package index with its extra `ncnn`, in PYTHON's environment. It
converts the traced model with pnnx, and checks the file by its cosine similarity with PyTorch on one image of noise,
which must be at least 0.9. It gets `--no-fp16`: by default it stores weights in half precision.

One row for each model of tests/families.json with at most LIMIT parameters, with random and awakened weights: what the
peer's command reports, and the signal-to-noise ratio of both files against PyTorch, in ncnn with float32 arithmetic.
A file that the peer refuses stays on the disk, and is measured too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import timm
import timmx
import torch
from coverage_models import ROOT, parameters
from photographs import write
from PIL import Image
from timmx.plugin import worst_db
from timmx.testing import awaken

RUN = """
import sys, ncnn, numpy as np
param, weights, images, results = sys.argv[1:]
net = ncnn.Net()
for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
    setattr(net.opt, name, False)
net.opt.num_threads = 1
if net.load_param(param) or net.load_model(weights):
    sys.exit("not loaded")
rows = []
for image in np.load(images):
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], ncnn.Mat(image).clone())
    code, mat = extractor.extract(net.output_names()[0])
    if code:
        sys.exit("not run")
    rows.append(np.array(mat).ravel())
np.save(results, rows)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", type=Path, metavar="PYTHON", required=True)
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--limit", type=float, default=6e6, help="number of parameters")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600, help="limit of the peer's command")
    arguments = parser.parse_args()
    families = json.loads((ROOT / "tests" / "families.json").read_text("utf-8"))
    names = arguments.names or [name for name in families if parameters(name) <= arguments.limit]
    command = [str(arguments.peer.parent / "timmx"), "export", "ncnn"]
    print("| model | the peer's check | the peer's file | `timmx ncnn` |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        _, photographs = write(Path(name), calibration=0, held_out=arguments.images)
        for model in names:
            with tempfile.TemporaryDirectory() as folder:
                row = compare(model, sorted(photographs.iterdir()), Path(folder), command, arguments.seconds)
            print(f"| {model} | {' | '.join(row)} |", flush=True)


def compare(
    name: str, photographs: list[Path], folder: Path, command: list[str], seconds: float
) -> tuple[str, str, str]:
    """The peer's verdict, and the ratio of its file and of ours."""
    torch.manual_seed(0)
    model = awaken(timm.create_model(name)).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in photographs])
    np.save(folder / "images.npy", images.numpy())
    with torch.no_grad():
        expected = model(images).numpy()
    timmx.export("ncnn", model, output=folder / "ours.param", verify=False)
    torch.save(model.state_dict(), folder / "weights.pth")
    theirs = folder / "peer"
    weights = ["--checkpoint", str(folder / "weights.pth"), "--no-fp16"]
    command = [*command, name, *weights, "--output", str(theirs)]
    return (
        check(command, seconds),
        ratio(theirs / "model.ncnn.param", folder / "images.npy", expected),
        ratio(folder / "ours.param", folder / "images.npy", expected),
    )


def check(command: list[str], seconds: float) -> str:
    """What the peer's command reports."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"more than {seconds:g} s"
    text = " ".join((done.stdout + done.stderr).split())
    cosine = re.search(r"verify: cosine similarity (\S+),", text)
    if cosine:
        return f"{'refused' if done.returncode else 'passed'}, cosine {float(cosine[1]):.3f}"
    if "has no batch dimension" in text or "failed verification" in text:
        return "refused, not checked"
    return f"failed, exit code {done.returncode}"


def ratio(param: Path, images: Path, expected: np.ndarray) -> str:
    """The ratio of a file, or why there is none; it runs in a process of its own, which a bad file can crash."""
    if not param.exists():
        return "no file"
    results = param.with_suffix(".npy")
    files = (param, param.with_suffix(".bin"), images, results)
    done = subprocess.run([sys.executable, "-c", RUN, *map(str, files)], capture_output=True, text=True)
    if done.returncode < 0:
        return "crashes ncnn"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    outputs = np.load(results)
    if outputs.size != expected.size:
        return f"{outputs[0].size} values of {expected[0].size}"
    return f"{worst_db([expected], [outputs.reshape(expected.shape)]):.0f} dB"


if __name__ == "__main__":
    main()
