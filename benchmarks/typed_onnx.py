"""Accuracy of the typed ONNX of each mode of `timmx tensorrt`. Requires no GPU.

    uv run benchmarks/typed_onnx.py [--models ...]

Prints for each model and mode the size, the signal-to-noise ratio compared with the PyTorch model
(docs/verification.md) and the share of images with the same top-1 class, with every half-precision number rounded to
its type. `digits` is evaluated on its 500 test images and calibrated on others; other models have random weights from
`timmx.testing.awaken`, and are evaluated on crops of photographs and calibrated on crops of others. `below the floor`
marks a file that verification would not publish.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import photographs
import timmx
from litert_quality import DIGITS, settled_model, write_seen_digits
from timmx.verification.comparison import FLOORS_DB
from timmx_tensorrt.options import TensorRTMode

MODELS = (
    "digits resnet18 efficientnet_b0 mobilenetv3_small_100 convnext_atto vit_tiny_patch16_224 "
    "swin_tiny_patch4_window7_224 eva02_tiny_patch14_224"
).split()
HELD_OUT, CALIBRATION = 24, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="timm names, and `digits`")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    columns = ["model", *(str(mode) for mode in TensorRTMode)]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration, held_out = photographs.write(folder, CALIBRATION, HELD_OUT)
        for model in arguments.models:
            if model == "digits":
                write_seen_digits(folder / "digits", 128)
                cells = measure(f"local-dir:{DIGITS}", folder / "digits", DIGITS / "samples", folder)
            else:
                cells = measure(settled_model(model, calibration), calibration, held_out, folder)
            print(f"| {model} | {' | '.join(cells)} |")


def measure(model: object, calibration: Path, held_out: Path, folder: Path) -> list[str]:
    """One cell a mode."""
    cells = []
    for mode in TensorRTMode:
        options = {"calibration_data": calibration} if mode.calibrated else {}
        result = timmx.export(
            "tensorrt",
            model,
            onnx_only=True,
            mode=mode,
            output=folder / "model.onnx",
            verify_data=held_out,
            min_snr=-100.0,
            **options,
        )
        report = result.verification
        mark = "" if report.snr_db >= FLOORS_DB[result.precision] else ", below the floor"
        agreement = "" if report.top1_agreement is None else f", {100 * report.top1_agreement:.1f} %"
        cells.append(f"{result.size_bytes / 1e6:.2f} MB, {report.snr_db:.1f} dB{agreement}{mark}")
    return cells


if __name__ == "__main__":
    main()
