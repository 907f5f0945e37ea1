"""Which operations go on computing in float32 in a float16 program: those whose numbers float16 cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

LARGEST = 65504 / 4
"""A magnitude above this may leave float16's range on another input: a quarter of its greatest number."""

_HANDLE = "debug_handle"
"""What coremltools copies from a node to every operation that it makes of it (`ScopeSource.EXIR_DEBUG_HANDLE`)."""


@dataclass(frozen=True)
class Float32Islands:
    """Operations of a program that stay float32, by the numbers that its nodes were given."""

    handles: frozenset[int]

    @property
    def count(self) -> int:
        return len(self.handles)

    def __call__(self, operation: Any) -> bool:
        """Whether an operation of MIL may be float16: the `op_selector` of `ct.transform.FP16ComputePrecision`."""
        from coremltools.converters.mil.mil.scope import ScopeSource

        return self.handles.isdisjoint(operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or [])


def float32_islands(
    program: torch.export.ExportedProgram, inputs: Iterable[torch.Tensor]
) -> Float32Islands | None:
    """Run the program in float32, look where its numbers grow large, and keep float16 away from there.

    The linear attention of efficientvit_b0 reaches 2e6 on random weights, and the model is noise in float16 (-16 dB).

    Args:
        program: from `lower`, before it is converted. Its nodes are numbered for the selector, which is for this
            program alone.
        inputs: batches like the real ones; a few images will do.

    Returns:
        What stays float32; None where float16 holds everything.
    """
    large = large_nodes(program, inputs)
    if not large:
        return None
    kept: set[int] = set()
    for handle, node in enumerate(program.graph.nodes):
        node.meta[_HANDLE] = handle
        if node.name in large or any(source.name in large for source in node.all_input_nodes):
            kept.add(handle)
    return Float32Islands(frozenset(kept))


def large_nodes(program: torch.export.ExportedProgram, inputs: Iterable[torch.Tensor]) -> frozenset[str]:
    """Names of the operations with a number above `LARGEST` in their output, or in an attention's scores."""
    watch = _Watch(program.module())
    with torch.no_grad():
        for batch in inputs:
            watch.run(batch)
    return frozenset(watch.large)


class _Watch(torch.fx.Interpreter):
    """Runs a graph and notes which operations make large numbers."""

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
            # The product is scaled before it is made, so this is the largest number there; without the mask, since
            # what a mask takes away may well leave the range.
            values = [*values, query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)]
        if any(_is_large(value) for value in values):
            self.large.add(n.name)
        return result


def _is_large(value: Any) -> bool:
    """An infinity is none: it comes from a mask, and float16 has it too."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel():
        return False
    magnitude = value.abs()
    return bool((magnitude.where(magnitude < torch.inf, 0) > LARGEST).any())
