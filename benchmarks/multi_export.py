"""Four formats by one `timmx export`, beside the four commands one after another, and beside a peer's four.

    uv run benchmarks/multi_export.py [--rounds 3] [--models resnet18 vit_small_patch16_224] [--peer PYTHON]

Whole processes, imports included, every file verified. The aim is at most 0.65 of the four commands. The peer is the
package `timmx` 0.10.1 of the index, by PYTHON's environment, where its extras were installed; the aim is at most half of
its four commands. It exports without a comparison with the model. Rounds take turns; prints medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from processes import ProcessError, measure

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "coreml": ".mlpackage", "litert": ".tflite"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["resnet18", "vit_small_patch16_224"])
    parser.add_argument("--peer", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    timmx = str(Path(sys.executable).parent / "timmx")
    for model in arguments.models:
        kept: dict[str, list[tuple[float, float]]] = {}
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as folder:
                one = [timmx, "export", model, "-o", f"{folder}/one"]
                kept.setdefault("one command", []).append(
                    _sum([[*one, *(word for name in FORMATS for word in ("--to", name))]])
                )
                kept.setdefault("four commands", []).append(
                    _sum(
                        [
                            [timmx, name, model, "-o", f"{folder}/four/{model}{suffix}"]
                            for name, suffix in FORMATS.items()
                        ]
                    )
                )
                if arguments.peer is not None:
                    peer = str(arguments.peer.parent / "timmx")
                    commands = [
                        [peer, name, model, "--output", f"{folder}/peer-{model}{suffix}"]
                        for name, suffix in FORMATS.items()
                    ]
                    try:
                        kept.setdefault("the peer's four", []).append(_sum(commands))
                    except ProcessError as exc:
                        print(f"the peer: {exc.reason}")
                        arguments.peer = None
                        kept.pop("the peer's four")
            print(".", end="", flush=True, file=sys.stderr)
        load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        print(f"\n{model}, {arguments.rounds} rounds, {os.cpu_count()} cores{load}")
        base = statistics.median(seconds for seconds, _ in kept["one command"])
        for what, runs in kept.items():
            seconds = statistics.median(run[0] for run in runs)
            memory = statistics.median(run[1] for run in runs)
            print(
                f"  {what:16}{seconds:>8.1f} s  {memory:>6.0f} MB  one command by this: {base / seconds:.2f}"
            )


def _sum(commands: list[list[str]]) -> tuple[float, float]:
    """Seconds of all, and the largest memory of one, in MB."""
    measured = [measure(command) for command in commands]
    return sum(seconds for seconds, _ in measured), max(memory for _, memory in measured)


if __name__ == "__main__":
    main()
