"""Time and peak memory of an export, compared with a plain script that makes the same torch calls.

    uv run benchmarks/export.py [--rounds 3] [--models resnet50 vit_small_patch16_224]

Both are whole processes, imports included: they load the model, export it, run file and model on six inputs and
compare the outputs. The plain script has no options, no preparation, no metadata and no atomic publishing. Prints
medians and their ratio to the plain script; the goal is 1.25 or less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from processes import measure

PLAIN = """
import sys
import numpy as np
import timm
import torch

name, path = sys.argv[1:]
torch.manual_seed(0)
model = timm.create_model(name).eval()
inputs = torch.rand(6, 3, 224, 224)
with torch.inference_mode():
    expected = model(inputs).numpy()
if path.endswith(".onnx"):
    import onnx
    import onnxruntime
    torch.onnx.export(
        model, (inputs[:1],), path, dynamo=True, external_data=False, opset_version=20,
        input_names=["input"], output_names=["output"], verbose=False,
    )
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = [session.run(None, {"input": inputs[i:i+1].numpy()})[0] for i in range(6)]
else:
    with torch.no_grad():
        program = torch.export.export(model, (inputs[:1],))
        torch.export.save(program, path)
        module = torch.export.load(path).module()
        found = [module(inputs[i:i+1]).numpy() for i in range(6)]
print(np.abs(np.concatenate(found) - expected).max())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit_small_patch16_224"])
    arguments = parser.parse_args()
    timmx = str(Path(sys.executable).parent / "timmx")
    print(f"{'':40}{'timmx':>18}{'plain':>18}{'ratio':>14}")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "plain.py"
        script.write_text(PLAIN)
        for model in arguments.models:
            for backend, suffix in (("onnx", ".onnx"), ("torch-export", ".pt2")):
                output = str(Path(folder) / f"model{suffix}")
                cases = (
                    [timmx, backend, model, "-o", output],
                    [sys.executable, str(script), model, output],
                )
                runs: tuple[list, list] = ([], [])
                for turn in range(arguments.rounds + 1):
                    for command, kept in zip(cases, runs, strict=True):
                        measured = measure(command)
                        if turn:
                            kept.append(measured)
                for index, unit in enumerate(("s", "MB")):
                    ours, plain = (statistics.median(run[index] for run in kept) for kept in runs)
                    what = f"{backend} {model}, {('wall time', 'peak memory')[index]}"
                    print(f"{what:40}{ours:>15.1f} {unit:2}{plain:>15.1f} {unit:2}{ours / plain:>14.2f}")


if __name__ == "__main__":
    main()
