"""Runs the nodes of a `.pt2` file's graph one by one."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from timmx.plugin import Operation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Operations:
    """The calls of a graph, each of which can be run separately; and one per output, which names it.

    Args:
        module: from `ExportedProgram.module()`; its only placeholder is the input.
        entry: name of the input.
        outputs: names of the outputs.

    Attributes:
        operations: the nodes in order; empty if a node writes into a part of another value, which separate calls
            cannot do.
    """

    def __init__(self, module: torch.fx.GraphModule, entry: str, outputs: Sequence[str]) -> None:
        self._module = module
        self._names: dict[torch.fx.Node, str] = {}
        self._nodes: dict[str, torch.fx.Node] = {}
        self._written: dict[torch.fx.Node, torch.fx.Node] = {}
        self._inputs: dict[str, dict[torch.fx.Node, torch.fx.Node]] = {}
        operations = []
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self._names[node] = entry
            elif node.op == "call_function" and node.target is operator.getitem:
                self._names[node] = f"{self._names[node.args[0]]}.{node.args[1]}"
            elif node.op == "call_function" and _values(node):
                operations.append(self._operation(node))
        last = module.graph.output_node()
        for name, node in zip(outputs, _leaves(last.args[0]), strict=True):
            source = self._names[self._written.get(node, node)]
            operations.append(Operation(f"output {name}", "output", (source,), (name,)))
        self.operations = () if any(map(_writes_into_view, module.graph.nodes)) else tuple(operations)

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one node; see `Runner.run_operation`."""
        node = self._nodes.get(name)
        if node is None:  # of an output
            (array,) = inputs.values()
            return {name.removeprefix("output "): array}
        sources = self._inputs[name]

        def value(source: torch.fx.Node) -> Any:
            if source.op == "get_attr":
                result: Any = self._module
                for part in str(source.target).split("."):
                    result = getattr(result, part)
                return result
            return _from_array(inputs[self._names[sources[source]]], source)

        arguments = torch.fx.map_arg(node.args, value)
        options = torch.fx.map_arg(node.kwargs, value)
        with torch.no_grad():
            results = node.target(*arguments, **options)  # type: ignore[operator]
        several = results if isinstance(results, (tuple, list)) else (results,)
        names = _names_of(self._names[node], node)
        kept = [result for result in several if isinstance(result, (torch.Tensor, int, torch.SymInt))]
        return {name: _to_array(result) for name, result in zip(names, kept, strict=True)}

    def _operation(self, node: torch.fx.Node) -> Operation:
        sources = {
            source: self._written.get(source, source)
            for source in node.all_input_nodes
            if source.op != "get_attr"
        }
        self._names[node] = f"%{node.name}"  # no output of the file has such a name
        self._nodes[node.name], self._inputs[node.name] = node, sources
        if _writes(node):
            target = node.args[0]
            assert isinstance(target, torch.fx.Node)
            for earlier in [target, *(key for key, new in self._written.items() if new is target)]:
                self._written[earlier] = node  # later users of the value see what was written
        return Operation(
            node.name,
            str(getattr(getattr(node.target, "overloadpacket", node.target), "__name__", node.target)),
            tuple(dict.fromkeys(self._names[source] for source in sources.values())),
            _names_of(self._names[node], node),
        )


def _values(node: torch.fx.Node) -> list[Any]:
    """The tensors and sizes that a node computes."""
    value = node.meta.get("val")
    several = value if isinstance(value, (tuple, list)) else [value]
    return [item for item in several if isinstance(item, (torch.Tensor, int, torch.SymInt))]


def _names_of(name: str, node: torch.fx.Node) -> tuple[str, ...]:
    if not isinstance(node.meta.get("val"), (tuple, list)):
        return (name,)
    return tuple(f"{name}.{index}" for index in range(len(_values(node))))


def _leaves(value: Any) -> list[torch.fx.Node]:
    found: list[torch.fx.Node] = []
    torch.fx.map_arg(value, found.append)
    return found


def _writes(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _writes_into_view(node: torch.fx.Node) -> bool:
    target = node.args[0] if node.op == "call_function" and _writes(node) else None
    return isinstance(target, torch.fx.Node) and bool(getattr(target.target, "is_view", False))


def _from_array(array: np.ndarray, source: torch.fx.Node) -> Any:
    value = source.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return int(array)
    return torch.from_numpy(array.copy()).to(device=value.device, dtype=value.dtype)


def _to_array(value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(int(value))
    return (value.float() if value.dtype is torch.bfloat16 else value).cpu().numpy()
