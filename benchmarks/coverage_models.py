"""Print the models of docs/coverage.md, one per line, for `timmx sweep --models`.

    uv run benchmarks/coverage_models.py [--seed 20261128] [--limit 100e6] > models.txt

First the models of tests/families.json, one for each family of timm, then for each family one more that a seeded random
choice takes from those with at most LIMIT parameters. A family without such a model has one line.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import timm
import torch

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument("--limit", type=float, default=100e6, help="number of parameters")
    args = parser.parse_args()
    first: list[str] = json.loads((ROOT / "tests" / "families.json").read_text())
    families: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        families[family(name)].append(name)
    second = [
        choose(names, first, f"{args.seed}:{name}", args.limit) for name, names in sorted(families.items())
    ]
    print("\n".join([*first, *(name for name in second if name)]))


def family(name: str) -> str:
    """The module of timm that defines the model."""
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def choose(names: list[str], first: list[str], seed: str, limit: float) -> str | None:
    """A random member, not in `first` and not a test model, with at most `limit` parameters."""
    members = sorted(name for name in names if name not in first and not name.startswith("test_"))
    random.Random(seed).shuffle(members)
    return next((name for name in members if parameters(name) <= limit), None)


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in timm.create_model(name).parameters())


if __name__ == "__main__":
    main()
