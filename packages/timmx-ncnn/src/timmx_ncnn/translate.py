"""Translates a lowered program to ncnn layers, operation by operation; other files have the operations."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import UnsupportedError
from torch.export.graph_signature import InputKind

from timmx_ncnn.layers import MOST_AXES, Network, Parameter, Value, Weight, sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    Function = Callable[["Translation", torch.fx.Node], Value | list[Value]]

aten = torch.ops.aten

TABLE: dict[Any, Function] = {}
"""What translates each operation."""


def translates(*operations: Any) -> Callable[[Function], Function]:
    """Register what translates some operations."""

    def register(function: Function) -> Function:
        TABLE.update(dict.fromkeys(operations, function))
        return function

    return register


class Translation:
    """One program's translation.

    A value of a node is a `Mat` with the numbers of the tensor in any shape: a reshape is not a layer, and what takes
    the value asks for the shape that it needs. The usual shape is that of the tensor without the batch.

    Attributes:
        layers: the result.
        network: collects them.
    """

    def __init__(self, program: torch.export.ExportedProgram, outputs: Sequence[str]) -> None:
        weights = {**program.constants, **program.state_dict}
        self._values: dict[torch.fx.Node, Value | list[Value]] = {}
        self._constants: dict[torch.fx.Node, torch.Tensor] = {}
        self._data: dict[tuple[torch.fx.Node, tuple[int, ...]], Value] = {}
        for node, spec in zip(
            program.graph.find_nodes(op="placeholder"), program.graph_signature.input_specs, strict=True
        ):
            if spec.kind is InputKind.USER_INPUT:
                self.network = Network("input", tuple(node.meta["val"].shape[1:]), outputs)
                self._values[node] = self.network.input
            else:
                assert spec.target is not None
                self._constants[node] = weights[spec.target].detach()
        for node in program.graph.nodes:
            if node.op == "call_function" and node not in self._values:
                self._translate(node)
        results = [
            self.take(node, self.frame(shape_of(node))[0]) for node in program.graph.output_node().args[0]
        ]
        self.layers = self.network.finish(list(zip(outputs, results, strict=True)))

    def take(self, node: torch.fx.Node, shape: tuple[int, ...] | None = None) -> Value:
        """The value of a node in a shape, or in that which it has."""
        if node in self._constants:
            return self._constant(node, shape or self.frame(shape_of(node))[0])
        value = self._values[node]
        assert isinstance(value, Value), node
        return value if shape is None else self.network.reshape(value, shape)

    def several(self, node: torch.fx.Node) -> list[Value]:
        """The values of an operation that returns a tuple."""
        value = self._values[node]
        assert isinstance(value, list), node
        return value

    def constant(self, node: Any) -> torch.Tensor | None:
        """The numbers of a node that does not depend on the input; None if it does."""
        return self._constants.get(node)

    def weight(self, node: Any, what: str) -> np.ndarray:
        """The numbers of a weight.

        Raises:
            UnsupportedError: it depends on the input.
        """
        constant = self.constant(node)
        if constant is None:
            raise UnsupportedError(f"ncnn has no {what} that depends on the input", hint=HINT)
        return numbers(constant)

    def replaces(self, node: torch.fx.Node, value: Value) -> None:
        """State that a layer computes this later node too."""
        self._values[node] = value

    @staticmethod
    def frame(shape: Sequence[int], *needed: int) -> tuple[tuple[int, ...], dict[int, int]]:
        """The usual shape of a tensor's `Mat`, and its axis for each axis of the tensor that it has.

        Args:
            shape: of the tensor.
            needed: axes that must be kept, even if their size is 1.

        Raises:
            UnsupportedError: it has too many axes.
        """
        axes = list(range(len(shape)))
        droppable = [axis for axis in axes if shape[axis] == 1 and axis not in needed]
        if droppable[:1] == [0]:
            axes.remove(droppable.pop(0))
        while len(axes) > MOST_AXES and droppable:
            axes.remove(droppable.pop(0))
        if len(axes) > MOST_AXES:
            text = " x ".join(map(str, shape))
            raise UnsupportedError(
                f"ncnn has at most {MOST_AXES} axes, and a tensor has the shape {text}", hint=HINT
            )
        return tuple(shape[axis] for axis in axes) or (1,), {axis: place for place, axis in enumerate(axes)}

    def _constant(self, node: torch.fx.Node, shape: tuple[int, ...]) -> Value:
        if (node, shape) not in self._data:
            weight = Weight(numbers(self._constants[node]), tagged=False)
            self._data[node, shape] = self.network.add(
                "MemoryData", node.name, [], shape, sizes(shape), (weight,)
            )
        return self._data[node, shape]

    def _translate(self, node: torch.fx.Node) -> None:
        if all(source in self._constants for source in node.all_input_nodes):
            self._constants[node] = self._computed(node)
            return
        if node.target is operator.getitem:
            source, index = node.args
            assert isinstance(source, torch.fx.Node)
            assert isinstance(index, int)
            self._values[node] = self.several(source)[index]
            return
        function = TABLE.get(node.target)
        if function is None:
            raise UnsupportedError(f"ncnn has no layer for {node.target}{_place(node)}", hint=HINT)
        try:
            self._values[node] = function(self, node)
        except UnsupportedError as exc:
            raise UnsupportedError(f"{exc.message} ({node.target}{_place(node)})", hint=exc.hint) from exc

    def _computed(self, node: torch.fx.Node) -> Any:
        def value(item: Any) -> Any:
            return self._constants[item] if isinstance(item, torch.fx.Node) else item

        args, kwargs = torch.fx.node.map_aggregate((node.args, dict(node.kwargs)), value)
        assert callable(node.target)
        with torch.no_grad():
            return node.target(*args, **kwargs)


HINT = "use timmx onnx, openvino or torch-export, which support this model"


def shape_of(node: torch.fx.Node) -> tuple[int, ...]:
    """The shape of the node's tensor."""
    return tuple(node.meta["val"].shape)


def arguments(node: torch.fx.Node) -> list[Any]:
    """All arguments in the order of the operation's schema, with its defaults."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | node.kwargs
    return [given.get(argument.name, argument.default_value) for argument in schema]


def numbers(tensor: torch.Tensor) -> np.ndarray:
    """A constant as float32 numbers in order."""
    return tensor.detach().cpu().float().contiguous().numpy().ravel()


def count(shape: Sequence[int]) -> int:
    """The number of elements of a shape."""
    return math.prod(shape)


def only_user(node: torch.fx.Node) -> torch.fx.Node | None:
    """The node's user, if it has only one."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def unary(t: Translation, node: torch.fx.Node, kind: str, parameters: Mapping[int, Parameter]) -> Value:
    """A layer that keeps the shape, whatever that is."""
    value = t.take(arguments(node)[0])
    return t.network.add(kind, node.name, [value], value.shape, parameters)


def _place(node: torch.fx.Node) -> str:
    """Where in the model an operation is, for a message."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return f" in {paths[-1].removeprefix('L__self___')}" if paths else ""
