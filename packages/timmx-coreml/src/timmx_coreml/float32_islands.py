"""Finds the operations that must stay float32 in a float16 program because their values may overflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import float32_nodes, moving_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from timmx.plugin import Repair

LARGEST = 65504 / 4
"""A quarter of float16's maximum: a larger magnitude may overflow on another input."""

_HANDLE = "debug_handle"
"""The node's metadata key that coremltools copies to all operations of the node (`ScopeSource.EXIR_DEBUG_HANDLE`)."""


@dataclass(frozen=True)
class Float32Islands:
    """The operations of a program that stay float32, as the debug handles of their nodes.

    Attributes:
        handles: of all.
        for_accuracy: how many of them miss the floor by their rounding; the others could overflow, or only move values.
        moving: how many only move values of those.
    """

    handles: frozenset[int]
    for_accuracy: int = 0
    moving: int = 0

    @property
    def count(self) -> int:
        """The operations that compute in float32."""
        return len(self.handles) - self.moving

    def __call__(self, operation: Any) -> bool:
        """Return whether a MIL operation may be float16; the `op_selector` of `ct.transform.FP16ComputePrecision`."""
        from coremltools.converters.mil.mil.scope import ScopeSource

        return self.handles.isdisjoint(operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or [])


def float32_islands(
    program: torch.export.ExportedProgram, inputs: Iterable[torch.Tensor], repair: Repair | None = None
) -> Float32Islands | None:
    """Run the program in float32 and select the operations with large values, and those that a repair needs.

    The linear attention of efficientvit_b0 reaches 2e6 with random weights; in float16 the output is noise (-16 dB).

    Args:
        program: the result of `lower`, before its conversion. Its nodes are numbered in place; the selector is valid
            for this program only.
        inputs: representative batches; a few images are enough.
        repair: the ratio that the file missed: the smallest further set of operations that reaches it stays float32.

    Returns:
        The operations that stay float32; None if float16 is enough for all.
    """
    large = large_nodes(program, inputs)
    fixed = large | {
        node.name
        for node in program.graph.nodes
        if any(source.name in large for source in node.all_input_nodes)
    }
    chosen = frozenset() if repair is None else float32_nodes(program, repair, fixed)
    if not fixed and not chosen:
        return None
    moving = moving_nodes(program, chosen) - fixed
    kept = fixed | chosen | moving
    handles: set[int] = set()
    for handle, node in enumerate(program.graph.nodes):
        node.meta[_HANDLE] = handle
        if node.name in kept:
            handles.add(handle)
    return Float32Islands(frozenset(handles), len(chosen), len(moving))


def large_nodes(program: torch.export.ExportedProgram, inputs: Iterable[torch.Tensor]) -> frozenset[str]:
    """Return the names of operations with a value above `LARGEST` in their output or attention scores."""
    watch = _Watch(program.module())
    with torch.no_grad():
        for batch in inputs:
            watch.run(batch)
    return frozenset(watch.large)


class _Watch(torch.fx.Interpreter):
    """Runs a graph and records the operations with large values."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.large: set[str] = set()

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.op != "call_function":
            return result
        values = result if isinstance(result, (list, tuple)) else [result]
        if n.target is torch.ops.aten.scaled_dot_product_attention.default:
            query, key = (self.env[source] for source in n.args[:2])  # type: ignore[index]
            # The scores; attention scales the query before the product. Without the mask: masked scores may overflow.
            values = [*values, query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)]
        if any(_is_large(value) for value in values):
            self.large.add(n.name)
        return result


def _is_large(value: Any) -> bool:
    """Infinities do not count: they come from masks, and float16 has them too."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
        return False
    magnitude = value.abs()
    return bool((magnitude.where(magnitude < torch.inf, 0) > LARGEST).any())
