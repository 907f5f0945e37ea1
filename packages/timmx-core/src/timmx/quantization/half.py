"""Runs a captured program as if some of its operations computed in half precision, and chooses those that must not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from timmx.base import worst_db
from timmx.quantization.float32_set import smallest_float32_set

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from timmx.contract import Repair


class HalfPrecisionProgram:
    """Measures how rounding to half precision changes a program's outputs.

    A half-precision operation takes rounded arguments, weights included, computes in float32 and rounds its
    results, as accelerators do.

    Args:
        program: float32, on the CPU.
        inputs: (N, C, H, W) float32, at least 2 different ones.
        dtype: torch.float16 or torch.bfloat16.

    Attributes:
        operations: names of the nodes that compute float values, in order of execution.
    """

    def __init__(
        self, program: torch.export.ExportedProgram, inputs: np.ndarray, dtype: torch.dtype = torch.float16
    ) -> None:
        self._module = program.module()
        entry = next(node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
        batch = entry.meta["val"].shape[0]
        self._size = batch if isinstance(batch, int) else 1
        self._inputs, self._dtype = inputs, dtype
        self._weights: dict[torch.fx.Node, torch.Tensor] = {}
        self.operations = tuple(node.name for node in self._module.graph.nodes if _computes(node))
        self._exact = self._run(self.operations)

    def snr_db(self, float32: Iterable[str]) -> float:
        """The worst output's ratio in dB with these operations in float32 and all others in half precision."""
        return worst_db(self._exact, self._run(float32))

    def _run(self, float32: Iterable[str]) -> list[np.ndarray]:
        rounding = _Rounding(self._module, frozenset(float32), self._dtype, self._weights)
        parts = []
        count = len(self._inputs)
        for start in range(0, count, self._size):
            indices = [index % count for index in range(start, start + self._size)]
            with torch.no_grad():
                results = rounding.run(torch.from_numpy(self._inputs[indices]))
            parts.append([tensor.numpy() for tensor in pytree.tree_leaves(results)])
        return [np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)]


class _Rounding(torch.fx.Interpreter):
    def __init__(
        self,
        module: torch.fx.GraphModule,
        float32: frozenset[str],
        dtype: torch.dtype,
        weights: dict[torch.fx.Node, torch.Tensor],
    ) -> None:
        super().__init__(module)
        self._float32, self._dtype, self._weights = float32, dtype, weights

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.name in self._float32 or not _computes(n):
            return super().run_node(n)
        args, kwargs = torch.fx.map_arg((n.args, n.kwargs), self._rounded)
        return self._round(n.target(*args, **kwargs))  # type: ignore[operator]

    def _rounded(self, source: torch.fx.Node) -> Any:
        if source.op != "get_attr":
            return self._round(self.env[source])
        if source not in self._weights:
            self._weights[source] = self._round(self.env[source])
        return self._weights[source]

    def _round(self, values: Any) -> Any:
        return pytree.tree_map(
            lambda value: (
                value.to(self._dtype).float()
                if isinstance(value, torch.Tensor) and value.dtype is torch.float32
                else value
            ),
            values,
        )


def _computes(node: torch.fx.Node) -> bool:
    """Whether it is an operation that rounds: not a view, a size or a write into another value."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    returns = node.target._schema.returns
    values = pytree.tree_leaves(node.meta.get("val"))
    return not any(item.alias_info is not None for item in returns) and any(
        isinstance(value, torch.Tensor) and value.is_floating_point() for value in values
    )


def float32_nodes(
    program: torch.export.ExportedProgram, repair: Repair, fixed: Collection[str] = frozenset()
) -> frozenset[str]:
    """The fewest nodes in float32 with which a program in half precision reaches the ratio of a repair.

    Args:
        program: float32, on the CPU.
        repair: of the job.
        fixed: names of nodes that are in float32 anyway; they are not in the result.

    Returns:
        Names of nodes; none if no choice is enough.
    """
    half = HalfPrecisionProgram(program, repair.inputs)
    items = [name for name in half.operations if name not in fixed]
    found = smallest_float32_set(items, lambda some: half.snr_db(some.union(fixed)), repair.target_db)
    return frozenset() if found is None else found.items


def moving_nodes(program: torch.export.ExportedProgram, float32: Collection[str]) -> frozenset[str]:
    """The nodes that only move values of float32 operations: in half precision they would round them.

    With all other operations of an efficientvit_m1 in float32, its reshapes, transposes and splits in float16 alone
    leave 19 dB.

    Args:
        program: float32.
        float32: names of nodes, such as those of `float32_nodes`.
    """
    present, moving = set(float32), set()
    for node in program.graph.nodes:
        computes = isinstance(node.target, torch._ops.OpOverload) and not any(
            item.alias_info is not None for item in node.target._schema.returns
        )
        if node.op == "call_function" and not computes:
            sources = [source for source in node.all_input_nodes if source.op == "call_function"]
            if sources and all(source.name in present for source in sources):
                present.add(node.name)
                moving.add(node.name)
    return frozenset(moving)
