"""The tables of operator times are complete and have possible values."""

from __future__ import annotations

import pytest
from operator_cases import kinds
from timmx_onnx.speed import speed_table

CONVERSIONS = ("quantize", "dequantize", "boundary")


@pytest.fixture(params=[True, False], ids=["vnni", "avx2"])
def table(request):
    return speed_table(vnni=request.param)


def test_a_table_has_every_kind_of_the_benchmark(table):
    assert [*table.costs] == [*kinds()]
    assert "ONNX Runtime" in table.cpu


def test_the_tables_are_of_cpus_with_and_without_vnni():
    assert "vnni" in speed_table(vnni=True).cpu
    assert "vnni" not in speed_table(vnni=False).cpu


@pytest.mark.parametrize("kind", kinds())
def test_costs_are_positive(table, kind):
    cost = table.costs[kind]
    assert (cost.unit, cost.part) == (kinds()[kind].unit, kinds()[kind].part)
    int8_only = kind in CONVERSIONS
    assert (cost.int8 is not None) == bool(kinds()[kind].kernels)
    for arithmetic in [cost.int8] if int8_only else [cost.float32, *([cost.int8] if cost.int8 else [])]:
        assert min(arithmetic.fixed_ns, arithmetic.per_unit_ns, arithmetic.per_part_ns) >= 0
        assert 0 < arithmetic.nanoseconds(1_000, 100) < arithmetic.nanoseconds(1_000_000, 100_000)


def test_conversions_take_time_in_int8_graphs_only(table):
    for kind in CONVERSIONS:
        cost = table.costs[kind]
        assert cost.float32.nanoseconds(1_000) == 0
        assert cost.int8.nanoseconds(1_000) > 0
