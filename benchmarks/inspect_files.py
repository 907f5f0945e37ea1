"""Time of `timmx inspect`, compared with `import torch, timm` in plain Python, in interleaved rounds.

    uv run benchmarks/inspect_files.py FILE... [--rounds 5]

Prints the median of each in seconds and its ratio to that of the import. The goal is less than 1.5 s, without torch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMPORT = "import torch, timm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    timmx = str(Path(sys.executable).parent / "timmx")
    cases = {IMPORT: [sys.executable, "-c", IMPORT]}
    cases |= {str(file): [timmx, "inspect", str(file)] for file in arguments.files}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(arguments.rounds + 1):
        for name, command in cases.items():
            took = _run(command)
            if turn:  # the first round fills the file cache
                seconds[name].append(took)
    base = statistics.median(seconds[IMPORT])
    print(f"{'':40}{'median s':>10}{'ratio':>8}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:40}{median:>10.3f}{median / base:>8.2f}")


def _run(command: list[str]) -> float:
    # bytecode may be kept, as on a user's machine
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
