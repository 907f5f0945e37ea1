"""Four formats with one `timmx export`, compared with `--jobs 1`, with four commands, and with those of a peer.

    uv run benchmarks/multi_export.py [--rounds 3] [--models resnet18 vit_small_patch16_224] [--peer PYTHON]

Whole processes, imports included; our files are verified. `--jobs 1` exports one format after another in one process,
and the default as many at once as cores and memory allow: compare their wall time on a quiet machine. The goal is at
most 0.65 times the four commands. The peer
is the package `timmx` 0.10.1 from the package index, in PYTHON's environment, with its extras; the goal is at most
half the time of its four commands. It does not compare its files with the model. The commands take turns in rounds;
prints medians. If other programs are running, compare the processor time, with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path

from processes import ProcessError, adopt_orphans, measure, wait_for_orphans

FORMATS = {"onnx": ".onnx", "torch-export": ".pt2", "coreml": ".mlpackage", "litert": ".tflite"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=["resnet18", "vit_small_patch16_224"])
    parser.add_argument("--peer", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    adopt_orphans()
    timmx = str(Path(sys.executable).parent / "timmx")
    for model in arguments.models:
        kept: dict[str, list[tuple[float, float, float]]] = {}
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as folder:
                targets = [word for name in FORMATS for word in ("--to", name)]
                for what, jobs in (("one command", []), ("with --jobs 1", ["--jobs", "1"])):
                    one = [timmx, "export", model, *targets, "-o", f"{folder}/{what}", *jobs]
                    kept.setdefault(what, []).append(_sum([one]))
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
                        [peer, "export", name, model, "--output", f"{folder}/peer-{model}{suffix}"]
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
        base = [statistics.median(run[index] for run in kept["one command"]) for index in range(3)]
        for what, runs in kept.items():
            wall, busy, memory = (statistics.median(run[index] for run in runs) for index in range(3))
            ratios = f"one command by this: {base[0] / wall:.2f}, {base[1] / busy:.2f} of processor time"
            size = (
                "" if what == "one command" else f"{memory:.0f} MB"
            )  # of several processes: the command prints it
            print(f"  {what:16}{wall:>8.1f} s  processors {busy:>6.1f} s  {size:>8}  {ratios}")


def _sum(commands: list[list[str]]) -> tuple[float, float, float]:
    """Seconds of all, by the clock and of processors, and the largest memory of one, in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = [measure(command) for command in commands]
    wait_for_orphans()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return sum(seconds for seconds, _ in measured), busy, max(memory for _, memory in measured)


if __name__ == "__main__":
    main()
