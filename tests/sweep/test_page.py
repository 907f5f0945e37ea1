"""The HTML report of a sweep with 98 families and 9 formats, in a real browser, and files for analysis."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from timmx.sweep.cell import Cell, CellStatus
from timmx.sweep.changes import compare_sweeps
from timmx.sweep.journal import Journal, Run
from timmx.sweep.models import SweepModel
from timmx.sweep.page import sweep_page
from timmx.sweep.plan import SweepPlan
from timmx.sweep.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from playwright.sync_api import Page
    from timmx.sweep.summary import Summary

MODELS = json.loads((Path(__file__).resolve().parent.parent / "families.json").read_text("utf-8"))
TARGETS = (
    *("onnx", "torch-export", "coreml", "coreml:compute_precision=float32", "litert", "litert:mode=int8"),
    *("tensorrt:onnx-only,mode=fp16", "openvino", "executorch"),
)
BELOW = (
    "verification failed, and nothing was published: output has -1.7 dB, the floor is 60 dB; against float64 it has "
    "-2.1 dB, where PyTorch's own float32 has 117.4 dB; the conversion is the cause"
)
FAILURES = (
    (
        CellStatus.FAILED,
        BELOW,
        "report this model to timmx, use another format, or set another floor with --min-snr",
    ),
    (CellStatus.REFUSED, "this format has no operation aten.unfold", "use another format"),
    (CellStatus.ERROR, "ValueError: not a graph", ""),
    (CellStatus.CRASHED, "its process was killed by SIGSEGV: free(): invalid pointer", ""),
    (CellStatus.TIMEOUT, "it took more than 600 s (while exporting)", "raise --limit-seconds"),
    (
        CellStatus.MEMORY,
        "it took 12.4 GB of memory, more than 12 GB (while lowering)",
        "raise --limit-memory",
    ),
)


def cells(seed: int = 0, **figures: bool) -> list[Cell]:
    """A cell for each model and target; every ninth has failed."""
    chance = random.Random(seed)
    result = []
    for row, model in enumerate(MODELS):
        for column, target in enumerate(TARGETS):
            size, wall = int(10 ** chance.uniform(5.5, 8.5)), chance.uniform(1, 60)
            cell = Cell(
                model=model,
                target=target,
                backend=target.partition(":")[0],
                key="k",
                status=CellStatus.VERIFIED,
                family=model.partition("_")[0],
                parameters=size // 4,
                weights="awakened",
                precision="fp32",
                size_bytes=size,
                snr_db=chance.uniform(60, 130),
                floor_db=60.0,
                accuracy=chance.uniform(0.6, 0.9) if figures.get("accuracy") else None,
                latency_ms=10 ** chance.uniform(0, 3) if figures.get("latency") else None,
                file=f"{model}/{model}.x",
                seconds=round(wall, 3),
                cpu_seconds=round(wall * 1.1, 3),
                memory_bytes=2_000_000_000,
                versions={"timmx-core": "0.1.0"},
                ended="2026-11-29T09:00:00+00:00",
            )
            if (row + column) % 9 == 0:
                status, message, hint = FAILURES[(row // 3 + column) % len(FAILURES)]
                cell = replace(
                    cell,
                    status=status,
                    kind="Error",
                    message=message,
                    hint=hint,
                    snr_db=-1.7 if status is CellStatus.FAILED else None,
                    size_bytes=None,
                    accuracy=None,
                    latency_ms=None,
                    file="",
                    command=f"timmx {cell.backend} {model} --output {model}.x --awaken",
                )
            result.append(cell)
    return result


def journal(folder: Path, content: Iterable[Cell]) -> Path:
    plan = SweepPlan(models=tuple(map(SweepModel, MODELS)), targets=TARGETS)
    with Journal(folder, resume=False) as file:
        command = f"timmx sweep --models names.txt {' '.join(f'--to {target}' for target in TARGETS)} --awaken -o out"
        machine = {"processor": "Example CPU", "cores": "2", "timmx-core": "0.1.0", "torch": "2.14.1"}
        file.add_run(
            Run(command=command, started="2026-11-29T08:00:00+00:00", machine=machine, plan=plan.to_json())
        )
        for cell in content:
            file.add(cell)
    return folder


def summary_of(folder: Path, content: Iterable[Cell]) -> Summary:
    return summarize(journal(folder, content) / "sweep.jsonl")
