"""What a sweep of many models costs, estimated from the cells of a sweep of some of them.

    timmx sweep --models sample.txt --to onnx ... -o out
    uv run benchmarks/sweep_cost.py out [--models 1300] [--cores 16 64 256]

Prints for each format the processor time of a cell: mean, median, and the 95 % interval of the mean, bootstrapped over
the models, which should be a random sample. Then the core-hours of all models in all formats, with what the cells of a
model share, and the hours on some numbers of cores.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from statistics import fmean, median

from timmx.sweep import journal_of, summarize

_DRAWS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=1300)
    parser.add_argument("--cores", type=int, nargs="+", default=[2, 16, 64, 256])
    arguments = parser.parse_args()
    summary = summarize(journal_of(arguments.folder))
    costs: dict[str, dict[str, float]] = {}
    for (model, target), cell in summary.cells.items():
        # a cell that was killed at a limit has its wall time only
        costs.setdefault(model, {})[target] = cell.seconds if cell.cpu_seconds is None else cell.cpu_seconds
    complete = {model: row for model, row in costs.items() if len(row) == len(summary.targets)}
    print(f"{len(complete)} models with all {len(summary.targets)} cells")
    for target in summary.targets:
        values = [row[target] for row in complete.values()]
        low, high = _interval(values)
        print(
            f"{target:36} mean {fmean(values):6.1f} s ({low:.1f} to {high:.1f}), median {median(values):6.1f} s"
        )
    loads = {
        model: max(summary.cells[model, target].shared_cpu_seconds or 0.0 for target in summary.targets)
        for model in complete
    }
    totals = [sum(row.values()) + loads[model] for model, row in complete.items()]
    print(f"{'loading and preparing a model':36} mean {fmean(loads.values()):6.1f} s")
    low, high = _interval(totals)
    hours = [arguments.models * value / 3600 for value in (fmean(totals), low, high)]
    print(f"{arguments.models} models: {hours[0]:.0f} core-hours ({hours[1]:.0f} to {hours[2]:.0f})")
    for cores in arguments.cores:
        print(f"  on {cores} cores: {hours[0] / cores:.1f} h")


def _interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of a mean."""
    chance = random.Random(0)
    means = sorted(fmean(chance.choices(values, k=len(values))) for _ in range(_DRAWS))
    return means[int(0.025 * _DRAWS)], means[int(0.975 * _DRAWS) - 1]


if __name__ == "__main__":
    main()
