"""Runs many cells without work through the path of `timmx sweep --ray`, on a local cluster.

    uv run benchmarks/cluster_cells.py [--cells 100000] [--nodes 3] [--cpus 1] [--targets 5]

Each Ray task reports the cells of one model at once, with figures for all plots, and exports nothing. The driver
records them in a journal on the disk, which syncs after each cell. Prints the time of the driver, its peak memory, the
size of the journal, and memory, size and processor time of reading it and of each kind of report.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=1, help="of each node")
    parser.add_argument("--targets", type=int, default=5)
    arguments = parser.parse_args()
    sys.path.append(str(ROOT / "tests"))
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    os.environ |= {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster()
    try:
        for _ in range(arguments.nodes):
            nodes.add_node(num_cpus=arguments.cpus, include_dashboard=False, object_store_memory=80 * 2**20)
        measure(nodes.address, arguments.cells, arguments.targets)
    finally:
        ray.shutdown()
        nodes.shutdown()


def measure(address: str, cells: int, count: int) -> None:
    """Run the sweep, and print what it took."""
    from ray_children import make_children
    from timmx.sweep.cluster import Cluster, ClusterDriver
    from timmx.sweep.connection import connected
    from timmx.sweep.driver import Limits
    from timmx.sweep.journal import Journal
    from timmx.sweep.models import SweepModel
    from timmx.sweep.node import Setup
    from timmx.sweep.plan import SweepPlan
    from timmx.sweep.summary import summarize
    from timmx.sweep.todo import tasks_of

    targets = (
        "onnx",
        "torch-export",
        "coreml",
        "litert",
        "openvino",
        "executorch",
        "tensorrt",
        "onnx:opset=20",
    )
    targets = targets[:count]
    models = tuple(SweepModel(f"hf-hub:owner/model-{number}") for number in range(cells // count))
    plan = SweepPlan(models=models, targets=targets)
    setup = Setup(
        plan=SweepPlan(models=(), targets=targets),
        versions=tuple(plan.versions()),
        limits=Limits(),
        make_launcher=make_children,
    )
    with tempfile.TemporaryDirectory() as name, connected(address):
        folder = Path(name)
        driver = ClusterDriver(plan, setup, Cluster(address=address))
        before, start, busy = _peak_mb(), time.perf_counter(), time.process_time()
        with (
            Journal(folder, resume=False) as journal,
            closing(driver.run(tasks_of(plan, folder, (), threads=1))) as run,
        ):
            for number, cell in enumerate(run, 1):
                journal.add(cell)
                if number % 10_000 == 0:
                    print(
                        f"{number:,} cells after {time.perf_counter() - start:.0f} s, {_peak_mb():.0f} MB",
                        flush=True,
                    )
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        print(
            f"driver: {len(models) * count:,} cells in {seconds:.0f} s ({busy:.0f} s of processor time), "
            f"peak memory {before:.0f} MB before, {_peak_mb():.0f} MB after; "
            f"journal {journal.path.stat().st_size / 1e6:.0f} MB"
        )
        start = time.process_time()
        summary = summarize(journal.path)
        reading = time.process_time() - start
        print(f"reading: {summary.passed:,} cells in {reading:.0f} s, {_peak_mb():.0f} MB", flush=True)
        for name, write in _REPORTS.items():
            path, start = folder / f"report.{name}", time.process_time()
            write(summary, path)
            seconds, size = time.process_time() - start, path.stat().st_size / 1e6
            print(f"{name}: {seconds:.1f} s, {size:.1f} MB, peak memory {_peak_mb():.0f} MB", flush=True)


def _text(summary: Any, path: Path) -> None:
    from timmx.sweep import text_report

    path.write_text("\n".join(text_report(summary)))


def _jsonl(summary: Any, path: Path) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(cell.to_json()) + "\n" for cell in summary.cells.values())


def _parquet(summary: Any, path: Path) -> None:
    from timmx.sweep import write_parquet

    write_parquet(summary, path)


def _html(summary: Any, path: Path) -> None:
    from timmx.report import write_report
    from timmx.sweep import sweep_page

    write_report(sweep_page(summary), path)


_REPORTS = {"txt": _text, "jsonl": _jsonl, "parquet": _parquet, "html": _html}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
