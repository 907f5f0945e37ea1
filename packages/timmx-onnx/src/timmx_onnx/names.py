"""Unique names of nodes and values in a graph, and constants under such names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray


class Names:
    """The names in use; `unused` returns a new one."""

    def __init__(self, used: Iterable[str | None]) -> None:
        self._used = set(used)

    @classmethod
    def of(cls, graph: ir.Graph) -> Names:
        """The names of the values of a graph, without its subgraphs."""
        outputs = (output for node in graph for output in node.outputs)
        return cls(value.name for value in (*graph.inputs, *graph.initializers.values(), *outputs))

    def unused(self, name: str) -> str:
        """`name`, with a number appended if it is in use; the result counts as in use from then on."""
        unique, count = name, 0
        while unique in self._used:
            count += 1
            unique = f"{name}_{count}"
        self._used.add(unique)
        return unique


def add_constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer of a graph; its name must be unused."""
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def name_nodes(model: ir.Model) -> None:
    """Give all nodes of the main graph unique names."""
    names = Names(())
    for node in model.graph:
        node.name = names.unused(node.name or node.op_type)
