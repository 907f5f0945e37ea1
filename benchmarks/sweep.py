"""One sweep, compared with separate commands, with `timmx.export_many` in a warm process, and with a peer.

    uv run benchmarks/sweep.py [--families 12] [--formats onnx torch-export coreml litert] [--jobs 1]
        [--peer PYTHON] [--skip commands export_many driver] [--cells 100000]

For each format, and for all together: the time of one sweep of the families (the cheapest member of each, from
tests/families.json), imports included, divided by that of separate `timmx FORMAT` commands; the goal is at most 0.6.
The overhead per cell over `export_many` in a warm process, with the same models and formats, is at most 10 %. It
runs 100,000 cells of scripted children that export nothing, in bounded memory. The peer is the package `timmx` 0.10.1
from the package index, in PYTHON's environment, with its extras; its commands are `timmx export FORMAT MODEL`.

Weights are random and awakened. On a busy machine, compare processor times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "coreml": ".mlpackage", "litert": ".tflite"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--families", type=int, default=12)
    parser.add_argument("--models", nargs="+", help="instead of a seeded random choice of families")
    parser.add_argument("--formats", nargs="+", default=list(SUFFIXES))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--peer", type=Path, metavar="PYTHON")
    parser.add_argument("--skip", nargs="*", default=[], choices=["commands", "export_many", "driver"])
    parser.add_argument("--cells", type=int, default=100_000)
    arguments = parser.parse_args()
    models = arguments.models or _families(arguments.families)
    print(f"{len(models)} models: {' '.join(models)}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if "commands" not in arguments.skip:
        _compare_with_commands(models, arguments)
    if "export_many" not in arguments.skip:
        _compare_with_export_many(models, arguments.formats)
    if "driver" not in arguments.skip:
        _drive(arguments.cells)


def _families(count: int) -> list[str]:
    names = json.loads((ROOT / "tests" / "families.json").read_text("utf-8"))
    return sorted(random.Random(0).sample(names, count))


def _compare_with_commands(models: Sequence[str], arguments: argparse.Namespace) -> None:
    print(f"{'format':16}{'sweep':>18}{'commands':>18}{'ratio':>14}")
    for formats in (*([name] for name in arguments.formats), arguments.formats):
        with tempfile.TemporaryDirectory() as folder:
            sweep = _measure([_sweep_command(models, formats, folder, arguments.jobs)], allow_failures=True)
            passed = _passed(Path(folder) / "sweep")
            commands = _measure(
                [
                    [
                        sys.executable,
                        "-m",
                        "timmx",
                        name,
                        model,
                        "--awaken",
                        "-o",
                        f"{folder}/{model}{SUFFIXES[name]}",
                    ]
                    for model in models
                    for name in formats
                ],
                allow_failures=True,
            )
            print(
                _row("+".join(formats) if len(formats) == 1 else "all", sweep, commands), f"{passed} passed"
            )
            if arguments.peer is not None:
                peer = str(arguments.peer.parent / "timmx")
                theirs = [
                    [peer, "export", name, model, "--output", f"{folder}/peer-{model}{SUFFIXES[name]}"]
                    for model in models
                    for name in formats
                ]
                print(_row("  the peer", sweep, _measure(theirs, allow_failures=True)))


def _sweep_command(models: Sequence[str], formats: Sequence[str], folder: str, jobs: int) -> list[str]:
    targets = [word for name in formats for word in ("--to", name)]
    return [
        *(sys.executable, "-m", "timmx", "sweep", *models, *targets, "--awaken"),
        *("-o", f"{folder}/sweep", "--jobs", str(jobs)),
    ]


def _passed(folder: Path) -> str:
    from timmx.sweep import journal_of, summarize

    summary = summarize(journal_of(folder))
    return f"{summary.passed}/{summary.planned}"


def _row(name: str, ours: tuple[float, float], theirs: tuple[float, float]) -> str:
    return (
        f"{name:16}{ours[0]:>8.1f} s{ours[1]:>6.1f} s{theirs[0]:>8.1f} s{theirs[1]:>6.1f} s"
        f"{ours[0] / theirs[0]:>8.2f}{ours[1] / theirs[1]:>6.2f}"
    )


def _measure(commands: Sequence[Sequence[str]], *, allow_failures: bool) -> tuple[float, float]:
    """Seconds of all commands, by the clock and of processors."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        subprocess.run(command, capture_output=True, check=not allow_failures)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - start, busy


_WARM = "test_resnet3"
"""Exported first by both; its time does not count."""


def _compare_with_export_many(models: Sequence[str], formats: Sequence[str]) -> None:
    """The time per cell of a sweep and of `export_many` in one process, both after a first model."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*_sweep_command([_WARM, *models], formats, folder, 1), "--json"]
        ends: dict[str, float] = {}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as sweep:
            assert sweep.stdout is not None
            for line in sweep.stdout:
                if model := json.loads(line).get("cell", {}).get("model"):
                    ends[model] = time.perf_counter()
        program = (
            "import json, sys, time, timmx\n"
            "for model in json.loads(sys.argv[1]):\n"
            "    start = time.perf_counter()\n"
            "    timmx.export_many(model, json.loads(sys.argv[2]), sys.argv[3], awaken=True)\n"
            "    print(json.dumps([model, time.perf_counter() - start]), flush=True)\n"
        )
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                json.dumps([_WARM, *models]),
                json.dumps(formats),
                f"{folder}/many",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    warm = sum(seconds for _, seconds in lines[1:])
    ours = max(ends.values()) - ends[_WARM]
    cells = len(models) * len(formats)
    print(
        f"per cell: sweep {ours / cells:.2f} s, export_many in a warm process {warm / cells:.2f} s, "
        f"{100 * (ours / warm - 1):+.0f} %"
    )


def _drive(cells: int) -> None:
    """Run scripted children, and print time and peak memory."""
    program = f"import sys; sys.path[:0] = [{str(ROOT / 'benchmarks')!r}]; import sweep; sweep.drive({cells})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    print(done.stdout, end="")


def drive(cells: int) -> None:
    """The driver alone: each child reports its cells at once, and exports nothing."""
    from timmx.sweep.driver import Driver
    from timmx.sweep.journal import Journal
    from timmx.sweep.models import SweepModel
    from timmx.sweep.plan import SweepPlan
    from timmx.sweep.rows import Rows
    from timmx.sweep.summary import summarize
    from timmx.sweep.todo import tasks_of

    targets = ("onnx", "torch-export", "coreml", "litert", "onnx:opset=20")
    models = tuple(SweepModel(f"hf-hub:owner/model-{number}") for number in range(cells // len(targets)))
    plan = SweepPlan(models=models, targets=targets)
    with tempfile.TemporaryDirectory() as folder:
        before, start = _peak_mb(), time.perf_counter()
        with Journal(Path(folder), resume=False) as journal:
            driver = Driver(Rows(plan), _EmptyLauncher(), jobs=2)  # type: ignore[arg-type]
            for cell in driver.run(tasks_of(plan, Path(folder), (), threads=0)):
                journal.add(cell)
        seconds, after = time.perf_counter() - start, _peak_mb()
        size = journal.path.stat().st_size / 1e6
        start = time.perf_counter()
        summary = summarize(journal.path)
        reading = time.perf_counter() - start
    print(
        f"driver: {summary.passed:,} cells in {seconds:.0f} s, journal {size:.0f} MB, peak memory {before:.0f} MB "
        f"before, {after:.0f} MB after; its report takes {reading:.0f} s and {_peak_mb():.0f} MB"
    )


class _EmptyChild:
    def __init__(self, todo: Sequence[int]) -> None:
        from timmx.processes import Message
        from timmx.sweep.task import Event

        values = {
            "status": "verified",
            "precision": "fp32",
            "snr_db": 100.0,
            "seconds": 1.0,
            "file": "a/a.onnx",
        }
        self._messages = [Message(Event.ENDED, {"cell": number, **values}) for number in todo]

    def messages(self) -> list[Any]:
        messages, self._messages = self._messages, []
        return messages

    def ending(self) -> str:
        return ""

    def memory_bytes(self) -> None:
        return None

    def end(self) -> None:
        return


class _EmptyLauncher:
    def start(self, task: Any) -> _EmptyChild:
        return _EmptyChild(task.todo)

    def wait(self, children: Sequence[Any], seconds: float) -> None:
        return


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
