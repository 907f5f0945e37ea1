"""ONNX graphs of float32 operators and of the same operators in int8, for operator_speed.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCALE = 0.02
"""The scale of all activations but those of gates: it does not change the times."""
Shape = tuple[int, ...]


class Graph:
    """An ONNX graph of float32 operators, or of the same operators between QDQ pairs."""

    def __init__(self, integers: bool) -> None:
        self.integers = integers
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.stored: dict[str, str] = {}
        """The uint8 tensor of each dequantized tensor."""
        self.scales: dict[str, float] = {}
        self.random = np.random.default_rng(0)

    def constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, operator: str, inputs: list[str], **attributes: object) -> str:
        """A node whose output is not quantized."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def apply(self, operator: str, inputs: list[str], **attributes: object) -> str:
        """A node whose output is quantized in an integer graph."""
        return self.quantized(self.node(operator, inputs, **attributes))

    def quantized(self, x: str, scale: float = SCALE, zero: int = 128, scale_of_result: float = 0.0) -> str:
        if not self.integers:
            return x
        point = self.constant(np.uint8(zero))
        stored = self.node("QuantizeLinear", [x, self.constant(np.float32(scale)), point])
        return self.dequantized(stored, scale_of_result or scale, zero)

    def dequantized(self, stored: str, scale: float = SCALE, zero: int = 128) -> str:
        constants = [self.constant(np.float32(scale)), self.constant(np.uint8(zero))]
        x = self.node("DequantizeLinear", [stored, *constants])
        self.stored[x], self.scales[x] = stored, scale
        return x

    def weight(self, x: str, *shape: int, axis: int, bias: bool = False) -> list[str]:
        """`x`, a constant operand with a scale for each index of `axis`, and a bias."""
        values = self.random.standard_normal(shape).astype(np.float32) / np.float32(
            (np.prod(shape) / shape[axis]) ** 0.5
        )
        size = shape[axis]
        shift = self.random.standard_normal(size).astype(np.float32)
        if not self.integers:
            return [x, self.constant(values), *([self.constant(shift)] if bias else [])]
        others = tuple(index for index in range(len(shape)) if index != axis)
        scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(127)
        integers = self.constant(np.rint(values / scale).astype(np.int8))
        constants = [self.constant(scale.ravel()), self.constant(np.zeros(size, np.int8))]
        operands = [x, self.node("DequantizeLinear", [integers, *constants], axis=axis)]
        if bias:
            # ONNX Runtime fuses a convolution only if the scale of the bias is that of the products.
            scale = np.float32(self.scales[x]) * scale.ravel()
            integers = self.constant(np.rint(shift / scale).astype(np.int32))
            constants = [self.constant(scale), self.constant(np.zeros(size, np.int32))]
            operands.append(self.node("DequantizeLinear", [integers, *constants], axis=0))
        return operands

    def scalar(self, value: float) -> str:
        if not self.integers:
            return self.constant(np.float32(value))
        return self.dequantized(self.constant(np.uint8(255)), value / 255, 0)

    def input(self, shape: Shape) -> str:
        name = f"input_{len(self.inputs)}"
        element = TensorProto.UINT8 if self.integers else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return self.dequantized(name) if self.integers else name

    def output(self, x: str) -> None:
        name = self.stored.get(x, x)
        integers = name.startswith("QuantizeLinear") or (self.integers and name.startswith("Transpose"))
        element = TensorProto.UINT8 if integers else TensorProto.FLOAT
        self.outputs.append(helper.make_tensor_value_info(name, element, None))

    def model(self) -> onnx.ModelProto:
        used = {name for node in self.nodes for name in node.input} | {value.name for value in self.outputs}
        nodes = [node for node in self.nodes if node.output[0] in used]
        graph = helper.make_graph(nodes, "speed", self.inputs, self.outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


Block = Callable[..., str]
"""Adds one copy of the operator to a graph: (graph, input, further inputs) to the output."""


@dataclass(frozen=True)
class Case:
    """An operator with one shape.

    `join` is how copies are combined: each takes the last one's output (`chain`), all take the inputs and their outputs
    are multiplied (`product`) or are the graph's outputs (`outputs`). `less` are the other operators of a copy, whose
    times are subtracted.
    """

    kind: str
    block: Block
    inputs: tuple[Shape, ...]
    units: float
    parts: float = 0.0
    operators: int = 1
    join: str = "chain"
    less: tuple[Case, ...] = ()
    surround: tuple[Block, ...] = ()
    """What comes before all copies and after them."""

    @property
    def follows_conv(self) -> bool:
        """Each copy follows a convolution, and only its time is subtracted."""
        return self.join == "chain" and len(self.less) == 1

    def graph(self, integers: bool, copies: int) -> onnx.ModelProto:
        graph = Graph(integers)
        x, *others = (graph.input(shape) for shape in self.inputs)
        before, after = self.surround or (lambda _, x: x,) * 2
        x = before(graph, x)
        if self.join == "chain":
            for _ in range(copies):
                x = self.block(graph, x, *others)
            graph.output(after(graph, x))
        elif self.join == "product":
            results = [self.block(graph, x, *others) for _ in range(copies)]
            product = results[0]
            for result in results[1:]:
                product = graph.apply("Mul", [product, result])
            graph.output(after(graph, product))
        else:
            for _ in range(copies):
                graph.output(self.block(graph, x, *others))
        return graph.model()


@dataclass(frozen=True)
class Kind:
    unit: str
    kernels: tuple[str, ...]
    """The integer kernels of one copy; empty if ONNX Runtime has none."""
    cases: list[Case] = field(default_factory=list)
    """The first is the typical one."""
    part: str = "output elements"
    """What `Case.parts` counts."""
