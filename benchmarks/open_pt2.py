"""Time and memory to open a `.pt2` file with timmx, compared with torch.export.load, in pairs that take turns.

    uv run benchmarks/open_pt2.py FILE.pt2... [--rounds 7]

`torch` is `torch.export.load(FILE).module()`. `timmx` is `timmx.open(FILE)`, which judges the file first and gives
torch a clean copy. Prints the median of each in seconds, the median of the ratios of the pairs with the smallest and
the largest, and the peak memory of a process that only opens the file. The goal is a ratio of at most 1.2.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

MEMORY = """
import sys, torch, timmx, timmx_torch_export.runner, torch._export.serde.serialize
if sys.argv[1] == "torch":
    kept = torch.export.load(sys.argv[2]).module()
elif sys.argv[1] == "timmx":
    kept = timmx.open(sys.argv[2])
status = open("/proc/self/status").read()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(
        f"{'file':32}{'torch s':>9}{'timmx s':>9}{'ratio':>7}{'least':>7}{'most':>7}{'torch MB':>10}{'timmx MB':>10}"
    )
    for path in arguments.files:
        pairs = [_pair(path, turn) for turn in range(arguments.rounds + 1)][
            1:
        ]  # the first imports everything
        ratios = [ours / torchs for torchs, ours in pairs]
        torch_s, timmx_s = (statistics.median(pair[way] for pair in pairs) for way in (0, 1))
        memory = [_memory(way, path) - _memory("nothing", path) for way in ("torch", "timmx")]
        print(
            f"{path.name:32}{torch_s:>9.3f}{timmx_s:>9.3f}{statistics.median(ratios):>7.2f}{min(ratios):>7.2f}"
            f"{max(ratios):>7.2f}{memory[0]:>10.0f}{memory[1]:>10.0f}"
        )


def _pair(path: Path, turn: int) -> tuple[float, float]:
    ways = {"torch": _torch, "timmx": _timmx}
    seconds = {}
    for way in sorted(ways, reverse=turn % 2 == 0):
        start = time.perf_counter()
        ways[way](path)
        seconds[way] = time.perf_counter() - start
    return seconds["torch"], seconds["timmx"]


def _torch(path: Path) -> None:
    import torch

    torch.export.load(path).module()


def _timmx(path: Path) -> None:
    import timmx

    timmx.open(path).close()


def _memory(way: str, path: Path) -> float:
    """Peak resident set size in MB of a process that opens the file this way."""
    command = [sys.executable, "-c", MEMORY, way, str(path)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1000


if __name__ == "__main__":
    main()
