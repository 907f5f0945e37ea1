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


_MOST_KEPT_BYTES = 2**30
"""Of values that are kept from one measurement to the next."""


class HalfPrecisionProgram:
    """Measures how rounding to half precision changes a program's outputs.

    A half-precision operation takes rounded arguments, weights included, computes in float32 and rounds its
    results, as accelerators do. A measurement starts at the first operation that differs from the last one's, as far as
    the values before it are kept: 1 GB of those at the end of the network.

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
        self._kept_nodes = _last_nodes(self._module.graph, _MOST_KEPT_BYTES * self._size // len(inputs))
        self._kept: list[dict[torch.fx.Node, Any]] = []
        self._last = frozenset[str]()
        self._exact = self._run(self.operations)

    def snr_db(self, float32: Iterable[str]) -> float:
        """The worst output's ratio in dB with these operations in float32 and all others in half precision."""
        return worst_db(self._exact, self._run(float32))

    def _run(self, float32: Iterable[str]) -> list[np.ndarray]:
        chosen = frozenset(float32)
        unchanged = self._unchanged(chosen)
        rounding = _Rounding(self._module, chosen, self._dtype, self._weights, self._kept_nodes)
        parts, kept = [], []
        count = len(self._inputs)
        for number, start in enumerate(range(0, count, self._size)):
            indices = [index % count for index in range(start, start + self._size)]
            # A node with a value is not run, not even one whose value no other node needs.
            values = {node: self._kept[number].get(node) for node in unchanged}
            with torch.no_grad():
                results = rounding.run(torch.from_numpy(self._inputs[indices]), initial_env=values)
            kept.append({node: value for node, value in rounding.env.items() if node in self._kept_nodes})
            parts.append([tensor.numpy() for tensor in pytree.tree_leaves(results)])
        self._kept, self._last = kept, chosen
        return [np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)]

    def _unchanged(self, float32: frozenset[str]) -> list[torch.fx.Node]:
        """The nodes before the first one with another precision than in the last run; none if that is not kept."""
        *nodes, output = self._module.graph.nodes
        changed = float32 ^ self._last
        first = next((index for index, node in enumerate(nodes) if node.name in changed), len(nodes))
        before = nodes[:first]
        needed = {source for node in (*nodes[first:], output) for source in node.all_input_nodes}
        return before if self._kept and needed.intersection(before) <= self._kept_nodes else []


class _Rounding(torch.fx.Interpreter):
    def __init__(
        self,
        module: torch.fx.GraphModule,
        float32: frozenset[str],
        dtype: torch.dtype,
        weights: dict[torch.fx.Node, torch.Tensor],
        kept: frozenset[torch.fx.Node],
    ) -> None:
        super().__init__(module)
        self._float32, self._dtype, self._weights = float32, dtype, weights
        self.user_to_last_uses = {
            user: [node for node in nodes if node not in kept]
            for user, nodes in self.user_to_last_uses.items()
        }

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


def _last_nodes(graph: torch.fx.Graph, most_bytes: int) -> frozenset[torch.fx.Node]:
    """The nodes at the end whose values take this much, and those that they need; none if the graph changes values."""
    nodes, kept = list(graph.nodes), set[torch.fx.Node]()
    if any(
        isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable for node in nodes
    ):
        return frozenset()
    for node in reversed(nodes):
        added = {node, *node.all_input_nodes} - kept
        most_bytes -= sum(_bytes(item) for item in added)
        if most_bytes < 0:
            break
        kept |= added
    return frozenset(kept)


def _bytes(node: torch.fx.Node) -> int:
    """Of the values that an operation makes."""
    values = pytree.tree_leaves(node.meta.get("val")) if node.op == "call_function" else []
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, torch.Tensor))


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
