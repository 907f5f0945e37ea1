"""Quality and cost of `timmx litert`, compared with litert-torch, its quantizer and PT2E without timmx.

    uv run benchmarks/litert.py [quality] [cost] [--rounds 3] [--threads 1] [--models ...]

`quality` prints one table per model: size, signal-to-noise ratio compared with the PyTorch model over all held-out
images (docs/verification.md), the share of images with the same top-1 class, and the median time per run in LiteRT
with XNNPACK. `relative to fp32` is the time per run divided by that of timmx's fp32 file in the same round, as the
median over the rounds. `refused` marks a file below the floor of its precision, which verification would not publish.

`cost` prints the medians of wall time and peak memory of a whole process, imports included, and their ratios to those
of the first row that works. timmx also runs model and file on six inputs and compares the outputs; the others verify
nothing. In 8 bits, all are calibrated on the same 32 images, except PT2E with dynamic ranges, which needs none.
Weights are random.

By default, both are run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from processes import ProcessError, measure

PLAIN = Path(__file__).with_name("litert_plain.py")
PARTS = {
    "quality": "digits mobilenetv3_small_100 efficientnet_b0 vit_tiny_patch16_224 convnext_atto".split(),
    "cost": ["mobilenetv3_small_100", "vit_tiny_patch16_224"],
}
"""The models of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="quality, cost; both by default")
    parser.add_argument(
        "--models", nargs="+", help="timm names, and for quality `digits`; default: those of each part"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds over the processes, after one that is not counted"
    )
    parser.add_argument(
        "--runs", type=int, default=15, help="rounds over the files, after one that is not counted"
    )
    parser.add_argument("--threads", type=int, default=1, help="of LiteRT in `quality`")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    parts = arguments.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    for part in parts:
        models = arguments.models or PARTS[part]
        with tempfile.TemporaryDirectory() as folder:
            if part == "quality":
                from litert_quality import report

                report(models, Path(folder), arguments.runs, arguments.threads)
            else:
                report_cost([name for name in models if name != "digits"], Path(folder), arguments.rounds)


def report_cost(models: list[str], folder: Path, rounds: int) -> None:
    """Print a table for each model in float32 and in 8 bits."""
    import photographs

    calibration, _ = photographs.write(folder)
    output = folder / "model.tflite"
    timmx = [str(Path(sys.executable).parent / "timmx"), "litert"]
    integers = ["--mode", "int8", "--calibration-data", str(calibration)]
    for model in models:
        ours = [*timmx, model, "-o", str(output)]
        plain = {
            way: [sys.executable, str(PLAIN), model, way, str(output), str(calibration)]
            for way in ("fp32", "quantizer-static", "pt2e-static", "pt2e-dynamic")
        }
        floats = {"litert-torch": plain["fp32"], "timmx litert": ours}
        eight_bits = {
            "litert-torch, quantizer's `static_wi8_ai8`": plain["quantizer-static"],
            "timmx litert --mode int8": [*ours, *integers],
            "PT2E, static": plain["pt2e-static"],
            "PT2E, dynamic": plain["pt2e-dynamic"],
        }
        _print_costs(f"{model}, fp32", floats, output, rounds)
        _print_costs(f"{model}, 8 bits", eight_bits, output, rounds)


def _print_costs(title: str, cases: dict[str, list[str]], output: Path, rounds: int) -> None:
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    failures: dict[str, str] = {}
    for turn in range(rounds + 1):
        for name, command in cases.items():
            if name in failures:
                continue
            output.unlink(missing_ok=True)
            try:
                measured = measure(command)
            except ProcessError as exc:
                failures[name] = exc.reason[:160]
            else:
                if turn:
                    runs[name].append(measured)
    print(f"\n{title}: {rounds} rounds\n")
    print("| | wall time | ratio | peak memory | ratio |\n| --- | --- | --- | --- | --- |")
    base: tuple[float, float] | None = None
    for name in cases:
        if name in failures:
            print(f"| {name} | fails: {failures[name]} |")
            continue
        seconds, memory = (statistics.median(run[index] for run in runs[name]) for index in (0, 1))
        base = base or (seconds, memory)
        print(
            f"| {name} | {seconds:.1f} s | {seconds / base[0]:.2f} "
            f"| {memory:.0f} MB | {memory / base[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
