"""How long operators take in ONNX Runtime, in float32 and in int8, from the table of benchmarks/operator_speed.py.

Nothing is timed here: the same graph always has the same costs, on every machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Cost:
    """Time of one operator as a function of its size, on one thread."""

    fixed_ns: float
    per_unit_ns: float
    per_part_ns: float = 0.0

    def nanoseconds(self, units: float, parts: float = 0.0) -> float:
        """The time for so many units and parts."""
        return self.fixed_ns + self.per_unit_ns * units + self.per_part_ns * parts


NOTHING = Cost(0.0, 0.0)


@dataclass(frozen=True)
class OperatorCost:
    """The costs of one kind of operator.

    `unit` says what is counted: multiply-adds, output elements or input elements; `part` is the second number that the
    time depends on, such as the output pixels of a depthwise convolution. `float32` is zero for conversions, which a
    float32 graph does not have. `int8` is None if ONNX Runtime has no integer kernel.
    """

    unit: str
    part: str
    float32: Cost
    int8: Cost | None


@dataclass(frozen=True)
class SpeedTable:
    """The costs of all kinds of operators on one CPU.

    Attributes:
        costs: by kind, such as `conv1x1`.
        cpu: the CPU and the version of ONNX Runtime that were measured.
    """

    costs: Mapping[str, OperatorCost]
    cpu: str


@cache
def speed_table(*, vnni: bool) -> SpeedTable:
    """The table for CPUs that multiply 8-bit integers without saturation, as VNNI does, or for older ones with AVX2."""
    name = "vnni.json" if vnni else "avx2.json"
    table = json.loads(resources.files("timmx_onnx").joinpath("speed_tables", name).read_text("utf-8"))
    costs = {
        kind: OperatorCost(row["unit"], row["part"], _cost(row["float32"]) or NOTHING, _cost(row["int8"]))
        for kind, row in table["kinds"].items()
    }
    instructions = ", ".join(table["instructions"])
    return SpeedTable(costs, f"{table['cpu']} ({instructions}), ONNX Runtime {table['onnxruntime']}")


def _cost(row: dict[str, float] | None) -> Cost | None:
    return None if row is None else Cost(row["fixed_ns"], row["per_unit_ns"], row["per_part_ns"])
