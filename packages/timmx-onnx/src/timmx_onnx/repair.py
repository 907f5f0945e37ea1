"""Chooses the nodes that stay in float32 so that a half-precision file reaches its floor, by running such files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from timmx.plugin import smallest_float32_set, worst_db

from timmx_onnx.names import name_nodes
from timmx_onnx.precision import computing_nodes, lower_precision
from timmx_onnx.runner import OnnxRunner
from timmx_onnx.running import run_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from timmx.plugin import Repair, Runner


def nodes_in_float32(
    model: ir.Model,
    dtype: ir.DataType,
    repair: Repair,
    keep_float32: Callable[[ir.Node], bool],
    open_file: Callable[[Path], Runner] = OnnxRunner,
) -> frozenset[str]:
    """The names of the fewest nodes with which the file reaches the ratio of a repair.

    Args:
        model: a float32 graph, simplified; its nodes get unique names. It is not changed otherwise.
        dtype: the half-precision type.
        repair: the ratio to reach, and inputs.
        keep_float32: returns whether a node stays in float32 in any case.
        open_file: opens a file in a runtime that rounds as the target does.

    Returns:
        Names of nodes; none if the ratio is not reached with all of them.
    """
    name_nodes(model)
    always = {str(node.name) for node in model.graph if keep_float32(node)}
    items = [str(node.name) for node in computing_nodes(model) if str(node.name) not in always]
    proto = ir.to_proto(model)
    exact = run_model(model, repair.inputs, OnnxRunner)

    def measure(kept: frozenset[str]) -> float:
        copy = ir.from_proto(proto)
        lower_precision(copy, dtype, lambda node: str(node.name) in kept or str(node.name) in always)
        return worst_db(exact, run_model(copy, repair.inputs, open_file))

    found = smallest_float32_set(items, measure, repair.target_db)
    return frozenset() if found is None else found.items
