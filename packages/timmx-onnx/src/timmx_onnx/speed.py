"""How long operators take in ONNX Runtime, in float32 and in int8, from the table of benchmarks/operator_speed.py.

Nothing is timed here: the same graph always has the same costs, on every machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Cost:
    """Time of one operator as a function of its size, on one thread."""

    fixed_ns: float
    per_unit_ns: float
    per_output_ns: float = 0.0

    def nanoseconds(self, units: float, outputs: float = 0.0) -> float:
        """The time for so many units, and output elements if the unit is the multiply-add."""
        return self.fixed_ns + self.per_unit_ns * units + self.per_output_ns * outputs


NOTHING = Cost(0.0, 0.0)


@dataclass(frozen=True)
class OperatorCost:
    """The costs of one kind of operator.

    `unit` says what is counted: multiply-adds, output elements or input elements. `float32` is zero for conversions,
    which a float32 graph does not have. `int8` is None if ONNX Runtime has no integer kernel.
    """

    kind: str
    unit: str
    float32: Cost
    int8: Cost | None


def operator_cost(kind: str) -> OperatorCost | None:
    """The costs of a kind, such as `conv1x1`; None if it was not measured."""
    return operator_costs().get(kind)


@cache
def operator_costs() -> dict[str, OperatorCost]:
    """All measured kinds, by name."""
    return {
        kind: OperatorCost(kind, row["unit"], _cost(row["float32"]) or NOTHING, _cost(row["int8"]))
        for kind, row in _table()["kinds"].items()
    }


def assumed_cpu() -> str:
    """The CPU and the version of ONNX Runtime that the costs are for."""
    table = _table()
    instructions = ", ".join(table["instructions"])
    return f"{table['cpu']} ({instructions}), ONNX Runtime {table['onnxruntime']}"


def _cost(row: dict[str, float] | None) -> Cost | None:
    return None if row is None else Cost(row["fixed_ns"], row["per_unit_ns"], row["per_output_ns"])


@cache
def _table() -> dict[str, Any]:
    return json.loads(resources.files("timmx_onnx").joinpath("speed.json").read_text("utf-8"))
