"""The table of operator times is complete and has possible values."""

from __future__ import annotations

import pytest
from operator_cases import kinds
from timmx_onnx.speed import assumed_cpu, operator_cost, operator_costs


def test_the_table_has_every_kind_of_the_benchmark():
    assert [*operator_costs()] == [*kinds()]
    assert operator_cost("no_such_kind") is None
    assert "ONNX Runtime" in assumed_cpu()


@pytest.mark.parametrize("kind", kinds())
def test_costs_are_positive(kind):
    cost = operator_cost(kind)
    int8_only = kind in ("quantize", "dequantize")
    assert (cost.int8 is not None) == bool(kinds()[kind].kernels)
    for arithmetic in [cost.int8] if int8_only else [cost.float32, *([cost.int8] if cost.int8 else [])]:
        assert min(arithmetic.fixed_ns, arithmetic.per_unit_ns, arithmetic.per_output_ns) >= 0
        assert 0 < arithmetic.nanoseconds(1_000, 100) < arithmetic.nanoseconds(1_000_000, 100_000)


def test_conversions_take_time_in_int8_graphs_only():
    for kind in ("quantize", "dequantize"):
        cost = operator_cost(kind)
        assert cost.float32.nanoseconds(1_000) == 0
        assert cost.int8.nanoseconds(1_000) > 0
