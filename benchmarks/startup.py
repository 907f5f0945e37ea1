"""Startup time of timmx, compared with `--help` of a ten-line Typer application, in interleaved rounds.

    uv run benchmarks/startup.py [--rounds 9]

Prints the median of each command in seconds and its ratio to that of the baseline; the goal is 1.5 or less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASELINE = '''
import typer
app = typer.Typer()

@app.command()
def hello(name: str, count: int = 1, loud: bool = False) -> None:
    """Greet somebody."""
    print(name * count)

app()
'''

COMMANDS = {
    "timmx --help": ("--help",),
    "timmx onnx --help": ("onnx", "--help"),
    "timmx --version": ("--version",),
    "timmx list (second call)": ("list",),
    "a refused option": ("onnx", "resnet18", "--no-such-option"),
    "a refused combination": ("onnx", "resnet18", "--mean", "0.5"),
}


MANY = "timmx --help, 50 backends"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    timmx = str(Path(sys.executable).parent / "timmx")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "hello.py"
        script.write_text(BASELINE)
        site = _install_backends(Path(folder) / "site", 48)
        cases = {"baseline": [sys.executable, str(script), "--help"]}
        cases |= {name: [timmx, *arguments] for name, arguments in COMMANDS.items()}
        cases[MANY] = [timmx, "--help"]
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(rounds + 1):
            for name, command in cases.items():
                took = _run(command, site if name == MANY else None)
                if turn:  # the first round fills the file cache, and makes the model index
                    seconds[name].append(took)
    base = statistics.median(seconds["baseline"])
    print(f"{'':32}{'median s':>10}{'ratio':>8}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:32}{median:>10.3f}{median / base:>8.2f}")
    two, fifty = (statistics.median(seconds[name]) for name in ("timmx --help", MANY))
    print(f"{'fifty backends against two':32}{'':10}{fifty / two:>8.2f}")


def _install_backends(site: Path, count: int) -> Path:
    """Metadata of `count` backends, as pip would leave it; help reads no more of them."""
    for number in range(count):
        info = site / f"timmx_format{number}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: timmx-format{number}\nVersion: 1.0\nSummary: Format {number}.\n"
            "Requires-Dist: timmx-core>=0.1,<0.2\nRequires-Dist: torch>=2.10\nRequires-Dist: numpy>=1.26\n"
        )
        (info / "entry_points.txt").write_text(
            f"[timmx.backends]\nformat{number} = timmx_format{number}:Backend\n"
        )
    return site


def _run(command: list[str], site: Path | None) -> float:
    # bytecode may be kept, as on a user's machine
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=environment
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
