"""Time of each kind of operator in ONNX Runtime, in float32 and in int8, on one thread of this CPU.

    uv run benchmarks/operator_speed.py [--only KIND ...] [--passes 4] [--seconds 0.5] [--write FILE]

`--write packages/timmx-onnx/src/timmx_onnx/speed_tables/vnni.json`, on a CPU with VNNI, writes the table that
timmx-onnx reads; `avx2.json` is that of a CPU without it.

An operator is measured in a region of its own arithmetic: two graphs with few and with many copies of it are run in
turns, and the difference of their least times is divided by the number of copies. So the time of the region's inputs
and outputs (calls, conversions, changes of the memory layout) is not part of it. Operators on maps, except relu, clip,
mul and add_alone, follow a depthwise convolution, whose time is subtracted: their memory layout and fusions are those
of an image model. In int8, inputs are uint8 with a zero point and weights int8 with one scale per channel, in QDQ
pairs, as onnxruntime.quantization writes them; the optimized graph must have the integer kernels and no other nodes.
Times are CPU times of the thread, which other processes hardly change.

The model is `nanoseconds = fixed + per_unit * units + per_part * parts`, fitted to the shapes of a kind with the least
absolute values of the relative errors; no number is negative. Parts are a second number that the time depends on:
output elements where units are multiply-adds, because int8 kernels convert each of them and gather its inputs; output
pixels of depthwise convolutions; channels where there is one value per channel. `error` is the largest relative error
of the kind's shapes.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import re
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from operator_cases import kinds

if TYPE_CHECKING:
    from operator_graphs import Case, Kind

LEAST_COPIES, MOST_COPIES = 3, 17
ENOUGH_NS = 400_000
"""Copies are added until the larger graph takes about this long."""
RESOLUTION = 0.05
"""Differences are known to this part of the times that are subtracted."""
INSTRUCTIONS = "avx2 avx_vnni avx512_vnni amx_int8 asimddp i8mm".split()


def main() -> None:
    table = kinds()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*table], default=[*table], help="kinds, default all")
    parser.add_argument("--passes", type=int, default=4, help="passes over all kinds")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each shape in a pass")
    parser.add_argument("--write", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    machine = {
        "cpu": cpu(),
        "instructions": instructions(),
        "onnxruntime": onnxruntime.__version__,
        "date": datetime.date.today().isoformat(),
    }
    known = ", ".join(machine["instructions"]) or "integer instructions unknown"
    print(f"{machine['cpu']} ({known}), 1 thread, ONNX Runtime {machine['onnxruntime']}, {machine['date']}\n")
    times: dict[tuple[str, int], Times] = {}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(arguments.passes):
            for kind in arguments.only:
                for index, case in enumerate(table[kind].cases):
                    key, kernels = (kind, index), table[kind].kernels
                    times[key] = measure(case, kernels, arguments.seconds, Path(name), times.get(key))
    rows = {
        kind: describe(kind, table[kind], [times[kind, index] for index in range(len(table[kind].cases))])
        for kind in arguments.only
    }
    print("\n".join([HEADER, *(line(kind, row) for kind, row in rows.items())]))
    if arguments.write:
        arguments.write.write_text(json.dumps(machine | {"kinds": rows}, indent=1) + "\n", "utf-8")


HEADER = (
    "| kind | float32: fixed, per 1000 units + parts | int8: fixed, per 1000 units + parts | typical size "
    "| float32 | int8 | int8 / float32 | error | integer kernels |\n|" + " --- |" * 9
)


@dataclass
class Times:
    """The least times of the graphs of a case in nanoseconds, over all passes: (graphs, arithmetics)."""

    copies: int
    least: np.ndarray


def measure(
    case: Case, kernels: tuple[str, ...], seconds: float, folder: Path, earlier: Times | None
) -> Times:
    names = arithmetics(case.kind, kernels)

    def runs(case: Case, copies: int) -> list[Run]:
        return [Run(case, name == "int8", copies, folder) for name in names]

    one = runs(case, 1)
    fast = min(least(one, 0.02))
    # Few pools take less than the convolutions around them.
    fewest = MOST_COPIES // 2 if case.surround and not case.follows_conv else LEAST_COPIES
    copies = earlier.copies if earlier else max(fewest, min(MOST_COPIES, 1 + int(ENOUGH_NS / fast)))
    many = runs(case, copies)
    if kernels:
        verify(case, kernels, copies - 1, many[-1].operators - one[-1].operators)
    if case.follows_conv:
        (part,) = case.less
        graphs = [many, runs(replace(part, surround=case.surround), copies)]
    else:
        graphs = [one, many]
        for part in case.less:
            graphs += [runs(part, 1), runs(part, copies)]
    best = np.array(least([run for graph in graphs for run in graph], seconds)).reshape(
        len(graphs), len(names)
    )
    return Times(copies, np.minimum(best, earlier.least) if earlier else best)


def costs(case: Case, times: Times) -> tuple[np.ndarray, np.ndarray]:
    """The nanoseconds of one operator in each arithmetic, and what of them is not known."""
    if case.follows_conv:
        whole, part = times.least / times.copies
        cost = whole - part
    else:
        slopes = (times.least[1::2] - times.least[::2]) / (times.copies - 1)
        cost, whole = slopes[0] - slopes[1:].sum(axis=0), times.least[1] / times.copies
    return cost / case.operators, RESOLUTION * whole / case.operators


def arithmetics(kind: str, kernels: tuple[str, ...]) -> list[str]:
    if kind in ("quantize", "dequantize", "boundary"):
        return ["int8"]
    return ["float32", "int8"] if kernels else ["float32"]


def describe(name: str, kind: Kind, times: list[Times]) -> dict:
    """The row of the JSON file."""
    sizes = [(case.units / case.operators, case.parts / case.operators) for case in kind.cases]
    measured = [costs(case, found) for case, found in zip(kind.cases, times, strict=True)]
    units, parts = sizes[0]
    row: dict = {
        "unit": kind.unit,
        "part": kind.part,
        "typical_units": round(units),
        "typical_parts": round(parts),
    }
    row |= {"float32": None, "int8": None}
    for index, arithmetic in enumerate(arithmetics(name, kind.kernels)):
        row[arithmetic] = fit(sizes, [(cost[index], unknown[index]) for cost, unknown in measured])
    return row | {"kernels": list(kind.kernels)}


def verify(case: Case, kernels: tuple[str, ...], copies: int, operators: Counter[str]) -> None:
    expected = Counter(
        {kernel: count * case.operators * copies for kernel, count in Counter(kernels).items()}
    )
    for part in case.less:
        expected[{"mul": "QLinearMul", "float": "Conv"}.get(part.kind, "QLinearConv")] += copies
    if operators != expected:
        shapes = ", ".join("x".join(map(str, shape)) for shape in case.inputs)
        raise SystemExit(
            f"{case.kind} of {shapes}: ONNX Runtime {onnxruntime.__version__} runs {dict(operators)} for {copies} "
            f"copies in int8, but the integer kernels are {dict(expected)}"
        )


class Run:
    """A session with its inputs and outputs in place."""

    def __init__(self, case: Case, integers: bool, copies: int, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        model = case.graph(integers and case.kind != "quantize", copies)
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            # Copies with the same inputs would be computed once.
            disabled_optimizers=["CommonSubexpressionElimination"],
        )
        optimized = onnx.load(folder / "optimized.onnx")
        self.operators = Counter(node.op_type.removeprefix("Nhwc") for node in optimized.graph.node)
        self.binding = self.session.io_binding()
        random = np.random.default_rng(1)
        for value in self.session.get_inputs():
            if value.type == "tensor(uint8)":
                array = random.integers(0, 256, value.shape, dtype=np.uint8)
            else:
                array = random.standard_normal(value.shape).astype(np.float32)
            self.binding.bind_ortvalue_input(value.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for value in self.session.get_outputs():
            self.binding.bind_output(value.name)
        self.session.run_with_iobinding(self.binding)
        outputs = zip(self.session.get_outputs(), self.binding.get_outputs(), strict=True)
        for value, result in list(outputs):
            self.binding.bind_ortvalue_output(value.name, result)

    def __call__(self) -> int:
        started = time.thread_time_ns()
        self.session.run_with_iobinding(self.binding)
        return time.thread_time_ns() - started


def least(runs: list[Run], seconds: float) -> list[int]:
    """The least time of each run, in nanoseconds; the runs take turns."""
    best = [2**62] * len(runs)
    ends, rounds = time.thread_time() + seconds, 0
    while rounds < 5 or time.thread_time() < ends:
        rounds += 1
        for index, run in enumerate(runs):
            # The first of three finds the caches as another graph left them.
            best[index] = min(best[index], run(), run(), run())
    return best


def fit(sizes: list[tuple[float, float]], measured: list[tuple[float, float]]) -> dict[str, float]:
    """The numbers of the model, and its largest relative error."""
    times = np.array([cost for cost, _ in measured])
    weights = 1 / np.maximum(times, [unknown for _, unknown in measured])
    columns = np.array([(1.0, *size) for size in sizes]) * weights[:, None]
    best, least_error = np.zeros(3), np.inf
    # The least absolute errors are those of a model that is exact for as many shapes as it has numbers.
    for used in ([1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        for exact in itertools.combinations(range(len(sizes)), len(used)):
            square = columns[np.ix_(exact, used)]
            if np.linalg.matrix_rank(square) < len(used):
                continue
            values = np.zeros(3)
            values[used] = np.linalg.solve(square, (times * weights)[list(exact)])
            error = float(np.abs(columns @ values - times * weights).sum())
            if values.min() >= 0 and error < least_error:
                best, least_error = values, error
    error = float(np.abs(columns @ best - times * weights).max())
    fixed, *others = best.tolist()
    per_unit, per_part = (float(f"{value:.4g}") for value in others)
    return {
        "fixed_ns": round(fixed, 1),
        "per_unit_ns": per_unit,
        "per_part_ns": per_part,
        "error": round(error, 2),
    }


def line(kind: str, row: dict) -> str:
    cells, typical, errors = [], [], []
    for arithmetic in ("float32", "int8"):
        cost = row[arithmetic]
        if cost is None:
            cells.append("-")
            typical.append(None)
            continue
        parts = f" + {1000 * cost['per_part_ns']:.3g}" if cost["per_part_ns"] else ""
        cells.append(f"{cost['fixed_ns'] / 1000:.1f} µs, {1000 * cost['per_unit_ns']:.3g}{parts} ns")
        time_ns = cost["fixed_ns"] + cost["per_unit_ns"] * row["typical_units"]
        typical.append((time_ns + cost["per_part_ns"] * row["typical_parts"]) / 1000)
        errors.append(f"{100 * cost['error']:.0f} %")
    shown = ["-" if value is None else f"{value:.1f} µs" for value in typical]
    ratio = "-" if None in typical else f"{typical[1] / typical[0]:.2f}"
    units = f"{row['typical_units'] / 1000:,.0f}k {row['unit']}"
    kernels = " + ".join(row["kernels"]) or "-"
    return f"| `{kind}` | {' | '.join([*cells, units, *shown, ratio, ', '.join(errors), kernels])} |"


def cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists() and (
        model := re.search(r"^model name\s*: (.+)$", information.read_text(), re.MULTILINE)
    ):
        return model[1]
    return platform.processor() or platform.machine()


def instructions() -> list[str]:
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return []
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", information.read_text(), re.MULTILINE)
    return [name for name in INSTRUCTIONS if flags and name in flags[1].split()]


if __name__ == "__main__":
    main()
