"""Time of each kind of operator in ONNX Runtime, in float32 and in int8, on one thread of this CPU.

    uv run benchmarks/operator_speed.py [--only KIND ...] [--passes 4] [--seconds 0.5] [--write FILE]

`--write packages/timmx-onnx/src/timmx_onnx/speed.json` writes the table that timmx-onnx reads.

An operator is measured in a region of its own arithmetic: two graphs with few and with many copies of it are run in
turns, and the difference of their least times is divided by the number of copies. So the time of the region's inputs
and outputs (calls, conversions, changes of the memory layout) is not part of it. Operators on maps, except relu, clip,
mul and add_alone, follow a depthwise convolution, whose time is subtracted: their memory layout and fusions are those
of an image model. In int8, inputs are uint8 with a zero point and weights int8 with one scale per channel, in QDQ
pairs, as onnxruntime.quantization writes them; the optimized graph must have the integer kernels and no other nodes.
Times are CPU times of the thread, which other processes hardly change.

The model is `nanoseconds = fixed + per_unit * units + per_output * outputs`, fitted to the shapes of a kind with the
least absolute values of the relative errors; no number is negative. `outputs` are output elements, of kinds whose unit
is the multiply-add: int8 kernels convert each of them, and gather the inputs of each. `error` is the largest relative
error of the kind's shapes.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import platform
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LEAST_COPIES, MOST_COPIES = 3, 17
ENOUGH_NS = 400_000
"""Copies are added until the larger graph takes about this long."""
RESOLUTION = 0.05
"""Differences are known to this part of the times that are subtracted."""
INSTRUCTIONS = "avx2 avx_vnni avx512_vnni amx_int8 asimddp i8mm".split()
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
    outputs: float = 0.0
    operators: int = 1
    join: str = "chain"
    less: tuple[Case, ...] = ()
    surround: tuple[Block, ...] = ()
    """What comes before all copies and after them."""

    @property
    def follows_conv(self) -> bool:
        """Each copy follows a convolution, and only its time is subtracted."""
        return self.join == "chain" and bool(self.less)

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
    float32: bool = True


def conv(
    kind: str, c: int, out: int, size: int, k: int = 1, groups: int = 1, s: int = 1, after: str = ""
) -> Case:
    def one(graph: Graph, x: str, c: int, out: int) -> str:
        operands = graph.weight(x, out, c // groups, k, k, axis=0, bias=True)
        # Patches of 4 pixels and more do not overlap.
        pads = [0 if s >= 4 else k // 2] * 4
        y = graph.node("Conv", operands, kernel_shape=[k, k], group=groups, strides=[s, s], pads=pads)
        if after == "Relu":
            y = graph.node("Relu", [y])
        if after == "Clip":
            y = graph.node("Clip", [y, graph.constant(np.float32(0)), graph.constant(np.float32(6))])
        # The range of a ReLU starts at 0.
        return graph.quantized(y, zero=0 if after else 128)

    new = size // s
    outputs = new * new * out
    units = outputs * (c // groups) * k * k
    shape = ((1, c, size, size),)
    if s > 1:
        block = lambda graph, x: one(graph, x, c, out)  # noqa: E731
        return Case(kind, block, shape, units, outputs, join="product", less=(product((1, out, new, new)),))
    if c == out:
        return Case(kind, lambda graph, x: one(graph, x, c, c), shape, units, outputs)
    pair = lambda graph, x: one(graph, one(graph, x, c, out), out, c)  # noqa: E731
    # With one pixel, the time is that of reading the weights.
    outputs = new * new * (c + out) if size > 1 else 0
    return Case(kind, pair, shape, 2 * units, outputs, operators=2)


def product(shape: Shape) -> Case:
    return Case("mul", binary("Mul"), (shape, shape), float(np.prod(shape)))


def depthwise(shape: Shape) -> Case:
    _, c, size, _ = shape
    return conv("depthwise", c, c, size, groups=c)


def between_convs(case: Case, result: Shape = ()) -> Case:
    """The same with a convolution before and after all copies, whose memory layout the copies have."""
    shape = case.inputs[0]
    return replace(case, surround=(depthwise(shape).block, depthwise(result or shape).block))


def after_conv(case: Case, residual: bool = False) -> Case:
    """The same with a convolution before each copy, whose input is the second operand if `residual`."""
    before = depthwise(case.inputs[0])

    def block(graph: Graph, x: str, *others: str) -> str:
        return case.block(graph, before.block(graph, x), *([x] if residual else others))

    return between_convs(replace(case, block=block, less=(before,)))


def elementwise(kind: str, block: Block, shape: Shape, *others: Shape) -> Case:
    return Case(kind, block, (shape, *others), float(np.prod(shape)))


def unary(operator: str, **attributes: object) -> Block:
    return lambda graph, x: graph.apply(operator, [x], **attributes)


def binary(operator: str) -> Block:
    return lambda graph, x, y: graph.apply(operator, [x, y])


def clip(graph: Graph, x: str) -> str:
    return graph.apply("Clip", [x, graph.constant(np.float32(0)), graph.constant(np.float32(6))])


def gate(graph: Graph, x: str) -> str:
    """clip(x + 3, 0, 6) / 6: the range of the quantized sum clips, and its scale is divided by 6."""
    return graph.quantized(graph.node("Add", [x, graph.scalar(3)]), 6 / 255, 0, 1 / 255)


def hard_sigmoid(graph: Graph, x: str) -> str:
    return gate(graph, x) if graph.integers else graph.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)


def hard_swish(graph: Graph, x: str) -> str:
    return graph.apply("Mul", [x, gate(graph, x)]) if graph.integers else graph.node("HardSwish", [x])


def silu(graph: Graph, x: str) -> str:
    return graph.apply("Mul", [x, graph.apply("Sigmoid", [x])])


def layer_norm(graph: Graph, x: str, size: int) -> str:
    scale, shift = np.ones(size, np.float32), np.zeros(size, np.float32)
    return graph.node("LayerNormalization", [x, graph.constant(scale), graph.constant(shift)])


def pool(kind: str, c: int, size: int, k: int, s: int) -> Case:
    operator = {"max_pool": "MaxPool", "average_pool": "AveragePool"}[kind]
    new = size // s
    pads = [k // 2 if k % 2 else 0] * 4
    block = unary(operator, kernel_shape=[k, k], strides=[s, s], pads=pads)
    less = (product((1, c, new, new)),)
    case = Case(kind, block, ((1, c, size, size),), c * size * size, join="product", less=less)
    return between_convs(case, (1, c, new, new))


def mean(kind: str, c: int, size: int) -> Case:
    def reduce(graph: Graph, x: str) -> str:
        return graph.apply("ReduceMean", [x, graph.constant(np.array([2, 3]))], keepdims=1)

    block = unary("GlobalAveragePool") if kind == "global_average_pool" else reduce
    less = (product((1, c, 1, 1)),)
    case = Case(kind, block, ((1, c, size, size),), c * size * size, join="product", less=less)
    return between_convs(case, (1, c, 1, 1))


def concat(c: int, size: int) -> Case:
    block = lambda graph, x: graph.apply("Concat", [x, x], axis=1)  # noqa: E731
    units, result = 2 * c * size * size, (1, 2 * c, size, size)
    case = Case("concat", block, ((1, c, size, size),), units, join="product", less=(product(result),))
    return between_convs(case, result)


def gemm(kind: str, c: int, out: int) -> Case:
    def block(graph: Graph, x: str) -> str:
        y = graph.node("Gemm", graph.weight(x, out, c, axis=0, bias=True), transB=1)
        return y if kind == "gemm_float_output" else graph.quantized(y)

    return Case(kind, block, ((1, c),), c * out, join="outputs")


def matmul(kind: str, rows: int, c: int, out: int) -> Case:
    def one(graph: Graph, x: str, c: int, out: int) -> str:
        return graph.node("MatMul", graph.weight(x, c, out, axis=1))

    shape, units = ((1, rows, c),), rows * c * out
    if kind == "matmul_float_output":
        block = lambda graph, x: one(graph, x, c, out)  # noqa: E731
        return Case(kind, block, shape, units, rows * out, join="outputs")

    def pair(graph: Graph, x: str) -> str:
        return graph.quantized(one(graph, graph.quantized(one(graph, x, c, out)), out, c))

    return Case(kind, pair, shape, 2 * units, rows * (c + out), operators=2)


def attention(heads: int, rows: int, size: int) -> Case:
    inputs = (1, heads, rows, size), (1, heads, size, rows)
    outputs = heads * rows * rows
    return Case("matmul_activations", binary("MatMul"), inputs, outputs * size, outputs, join="outputs")


def conversion(kind: str, shape: Shape) -> Case:
    def quantize(graph: Graph, x: str) -> str:
        constants = [graph.constant(np.float32(SCALE)), graph.constant(np.uint8(128))]
        return graph.node("QuantizeLinear", [x, *constants])

    def dequantize(graph: Graph, x: str) -> str:
        constants = [graph.constant(np.float32(SCALE)), graph.constant(np.uint8(128))]
        return graph.node("DequantizeLinear", [graph.stored.get(x, x), *constants])

    block = quantize if kind == "quantize" else dequantize
    return Case(kind, block, (shape,), float(np.prod(shape)), join="outputs")


def transpose(shape: Shape) -> Case:
    def block(graph: Graph, x: str) -> str:
        return graph.node("Transpose", [graph.stored.get(x, x)], perm=[0, 2, 3, 1])

    return Case("transpose", block, (shape,), float(np.prod(shape)), join="outputs")


POINTWISE = (
    (64, 384, 14), (24, 144, 56), (32, 192, 28), (96, 576, 14), (160, 960, 7), (64, 256, 56), (256, 1024, 14),
    (24, 144, 24), (64, 384, 6), (160, 960, 3),
)  # fmt: skip
VECTORS = ((576, 144, 1), (96, 24, 1), (240, 64, 1), (960, 240, 1), (64, 16, 1))
MAPS = ((1, 384, 14, 14), (1, 144, 56, 56), (1, 192, 28, 28), (1, 960, 7, 7), (1, 64, 24, 24), (1, 576, 3, 3))
TOKENS = ((197, 192, 768), (197, 384, 1536), (37, 192, 768), (3136, 96, 384), (49, 384, 1536))
MACS, OUTPUTS, INPUTS = "multiply-adds", "output elements", "input elements"


def kinds() -> dict[str, Kind]:
    sequences = [(1, rows, c) for rows, c, _ in TOKENS]
    wide = [(1, rows, out) for rows, _, out in TOKENS]
    return {
        "conv1x1": Kind(MACS, ("QLinearConv",), [conv("conv1x1", *s) for s in POINTWISE]),
        "conv1x1_vector": Kind(MACS, ("QLinearConv",), [conv("conv1x1_vector", *s) for s in VECTORS]),
        "conv1x1_relu": Kind(
            MACS, ("QLinearConv",), [conv("conv1x1_relu", *s, after="Relu") for s in POINTWISE[:5]]
        ),
        "conv1x1_clip": Kind(
            MACS, ("QLinearConv",), [conv("conv1x1_clip", *s, after="Clip") for s in POINTWISE[:5]]
        ),
        "conv": Kind(
            MACS,
            ("QLinearConv",),
            [
                *(conv("conv", c, c, size, 3) for c, size in ((128, 28), (64, 56), (256, 14), (512, 7))),
                *(conv("conv", c, c, size, 3) for c, size in ((64, 24), (128, 12), (256, 6), (32, 48))),
                conv("conv", 64, 128, 56, 3, s=2),
                conv("conv", 24, 48, 24, 3, s=2),
            ],
        ),
        "stem": Kind(
            MACS,
            ("QLinearConv",),
            [
                conv("stem", 3, out, size, k, s=s)
                for out, size, k, s in (
                    (32, 224, 3, 2),
                    (16, 224, 3, 2),
                    (64, 224, 7, 2),
                    (32, 96, 3, 2),
                    (16, 96, 3, 2),
                    (64, 96, 7, 2),
                )
            ],
        ),
        "patches": Kind(
            MACS,
            ("QLinearConv",),
            [
                conv("patches", 3, out, size, k, s=k)
                for out, size, k in ((192, 224, 16), (384, 224, 16), (192, 96, 16), (96, 224, 4), (40, 96, 4))
            ],
        ),
        "depthwise": Kind(
            MACS,
            ("QLinearConv",),
            [
                *(
                    conv("depthwise", c, c, size, k, groups=c)
                    for c, size, k in (
                        (384, 14, 3),
                        (32, 112, 3),
                        (144, 56, 3),
                        (192, 28, 3),
                        (144, 28, 5),
                        (576, 14, 5),
                        (960, 7, 5),
                        (96, 48, 3),
                        (144, 24, 3),
                        (576, 6, 5),
                        (40, 56, 7),
                        (160, 14, 7),
                    )
                ),
                conv("depthwise", 96, 96, 112, 3, groups=96, s=2),
                conv("depthwise", 144, 144, 28, 5, groups=144, s=2),
            ],
        ),
        "grouped": Kind(
            MACS,
            ("QLinearConv",),
            [
                conv("grouped", c, c, size, 3, groups=c // width)
                for c, size, width in (
                    (256, 28, 8),
                    (128, 56, 4),
                    (512, 14, 16),
                    (48, 56, 8),
                    (120, 28, 8),
                    (96, 12, 16),
                    (240, 14, 24),
                )
            ],
        ),
        "gemm": Kind(MACS, ("QGemm",), [gemm("gemm", *s) for s in GEMMS]),
        "gemm_float_output": Kind(MACS, ("QGemm",), [gemm("gemm_float_output", *s) for s in GEMMS]),
        "matmul": Kind(MACS, ("QLinearMatMul",), [matmul("matmul", *s) for s in TOKENS]),
        "matmul_float_output": Kind(
            MACS, ("MatMulIntegerToFloat",), [matmul("matmul_float_output", *s) for s in TOKENS]
        ),
        "matmul_activations": Kind(
            MACS,
            ("QLinearMatMul",),
            [attention(*s) for s in ((3, 197, 64), (6, 197, 64), (3, 37, 64), (8, 49, 32))],
        ),
        "add": Kind(
            OUTPUTS,
            ("QLinearAdd",),
            [after_conv(elementwise("add", binary("Add"), s), residual=True) for s in MAPS],
        ),
        "add_alone": Kind(
            OUTPUTS, ("QLinearAdd",), [elementwise("add_alone", binary("Add"), s, s) for s in MAPS]
        ),
        "mul": Kind(OUTPUTS, ("QLinearMul",), [product(s) for s in MAPS]),
        "mul_channel": Kind(
            OUTPUTS,
            ("QLinearMul",),
            [after_conv(elementwise("mul_channel", binary("Mul"), s, (*s[:2], 1, 1))) for s in MAPS],
        ),
        "relu": Kind(OUTPUTS, (), [elementwise("relu", unary("Relu"), s) for s in MAPS]),
        "clip": Kind(OUTPUTS, (), [elementwise("clip", clip, s) for s in MAPS]),
        **{
            kind: Kind(OUTPUTS, kernels, [after_conv(elementwise(kind, block, s)) for s in MAPS])
            for kind, kernels, block in (
                ("sigmoid", ("QLinearSigmoid",), unary("Sigmoid")),
                ("silu", ("QLinearSigmoid", "QLinearMul"), silu),
                ("hardsigmoid", ("QLinearAdd",), hard_sigmoid),
                ("hardswish", ("QLinearAdd", "QLinearMul"), hard_swish),
            )
        },
        "gelu": Kind(OUTPUTS, (), [elementwise("gelu", unary("Gelu"), s) for s in wide]),
        "layer_norm": Kind(
            OUTPUTS,
            (),
            [elementwise("layer_norm", lambda g, x, c=s[-1]: layer_norm(g, x, c), s) for s in sequences],
        ),
        "softmax": Kind(
            OUTPUTS,
            ("QLinearSoftmax",),
            [
                elementwise("softmax", unary("Softmax", axis=-1), s)
                for s in ((1, 3, 197, 197), (1, 6, 197, 197), (1, 3, 37, 37), (64, 3, 49, 49))
            ],
        ),
        "global_average_pool": Kind(
            INPUTS, ("QLinearGlobalAveragePool",), [mean("global_average_pool", *s) for s in MEANS]
        ),
        "reduce_mean": Kind(INPUTS, (), [mean("reduce_mean", *s) for s in MEANS]),
        "max_pool": Kind(
            INPUTS,
            ("MaxPool",),
            [
                pool("max_pool", *s)
                for s in ((64, 112, 3, 2), (64, 56, 2, 2), (256, 14, 2, 2), (64, 48, 3, 2))
            ],
        ),
        "average_pool": Kind(
            INPUTS,
            ("QLinearAveragePool",),
            [
                pool("average_pool", *s)
                for s in ((256, 56, 2, 2), (512, 28, 2, 2), (256, 24, 2, 2), (512, 12, 2, 2), (64, 56, 3, 2))
            ],
        ),
        "concat": Kind(
            OUTPUTS,
            ("QLinearConcat",),
            [concat(*s) for s in ((128, 28), (64, 56), (256, 14), (64, 24), (256, 6))],
        ),
        "transpose": Kind(OUTPUTS, ("Transpose",), [transpose(s) for s in MAPS]),
        "quantize": Kind(OUTPUTS, ("QuantizeLinear",), [conversion("quantize", s) for s in MAPS]),
        "dequantize": Kind(OUTPUTS, ("DequantizeLinear",), [conversion("dequantize", s) for s in MAPS]),
    }


GEMMS = ((1280, 1000), (576, 1000), (2048, 1000), (192, 1000), (576, 144))
MEANS = ((576, 7), (1280, 7), (96, 56), (240, 14), (576, 3))


def main() -> None:
    table = kinds()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*table], default=[*table], help="kinds, default all")
    parser.add_argument("--passes", type=int, default=4, help="passes over all kinds")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each shape in a pass")
    parser.add_argument("--write", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    machine = {
        "cpu": cpu(),
        "instructions": instructions(),
        "onnxruntime": onnxruntime.__version__,
        "date": datetime.date.today().isoformat(),
    }
    known = ", ".join(machine["instructions"]) or "integer instructions unknown"
    print(f"{machine['cpu']} ({known}), 1 thread, ONNX Runtime {machine['onnxruntime']}, {machine['date']}\n")
    times: dict[tuple[str, int], Times] = {}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(arguments.passes):
            for kind in arguments.only:
                for index, case in enumerate(table[kind].cases):
                    key, kernels = (kind, index), table[kind].kernels
                    times[key] = measure(case, kernels, arguments.seconds, Path(name), times.get(key))
    rows = {
        kind: describe(kind, table[kind], [times[kind, index] for index in range(len(table[kind].cases))])
        for kind in arguments.only
    }
    print("\n".join([HEADER, *(line(kind, row) for kind, row in rows.items())]))
    if arguments.write:
        arguments.write.write_text(json.dumps(machine | {"kinds": rows}, indent=1) + "\n", "utf-8")


HEADER = (
    "| kind | float32: fixed, per 1000 units + outputs | int8: fixed, per 1000 units + outputs | typical size "
    "| float32 | int8 | int8 / float32 | error | integer kernels |\n|" + " --- |" * 9
)


@dataclass
class Times:
    """The least times of the graphs of a case in nanoseconds, over all passes: (graphs, arithmetics)."""

    copies: int
    least: np.ndarray


def measure(
    case: Case, kernels: tuple[str, ...], seconds: float, folder: Path, earlier: Times | None
) -> Times:
    names = arithmetics(case.kind, kernels)

    def runs(case: Case, copies: int) -> list[Run]:
        return [Run(case, name == "int8", copies, folder) for name in names]

    one = runs(case, 1)
    fast = min(least(one, 0.02))
    # Few pools take less than the convolutions around them.
    fewest = MOST_COPIES // 2 if case.surround and not case.follows_conv else LEAST_COPIES
    copies = earlier.copies if earlier else max(fewest, min(MOST_COPIES, 1 + int(ENOUGH_NS / fast)))
    many = runs(case, copies)
    if kernels:
        verify(case, kernels, copies - 1, many[-1].operators - one[-1].operators)
    if case.follows_conv:
        (part,) = case.less
        graphs = [many, runs(replace(part, surround=case.surround), copies)]
    else:
        graphs = [one, many]
        for part in case.less:
            graphs += [runs(part, 1), runs(part, copies)]
    best = np.array(least([run for graph in graphs for run in graph], seconds)).reshape(
        len(graphs), len(names)
    )
    return Times(copies, np.minimum(best, earlier.least) if earlier else best)


def costs(case: Case, times: Times) -> tuple[np.ndarray, np.ndarray]:
    """The nanoseconds of one operator in each arithmetic, and what of them is not known."""
    if case.follows_conv:
        whole, part = times.least / times.copies
        cost = whole - part
    else:
        slopes = (times.least[1::2] - times.least[::2]) / (times.copies - 1)
        cost, whole = slopes[0] - slopes[1:].sum(axis=0), times.least[1] / times.copies
    return cost / case.operators, RESOLUTION * whole / case.operators


def arithmetics(kind: str, kernels: tuple[str, ...]) -> list[str]:
    if kind in ("quantize", "dequantize"):
        return ["int8"]
    return ["float32", "int8"] if kernels else ["float32"]


def describe(name: str, kind: Kind, times: list[Times]) -> dict:
    """The row of the JSON file."""
    sizes = [(case.units / case.operators, case.outputs / case.operators) for case in kind.cases]
    measured = [costs(case, found) for case, found in zip(kind.cases, times, strict=True)]
    units, outputs = sizes[0]
    row: dict = {"unit": kind.unit, "typical_units": round(units), "typical_outputs": round(outputs)}
    row |= {"float32": None, "int8": None}
    for index, arithmetic in enumerate(arithmetics(name, kind.kernels)):
        row[arithmetic] = fit(sizes, [(cost[index], unknown[index]) for cost, unknown in measured])
    return row | {"kernels": list(kind.kernels)}


def verify(case: Case, kernels: tuple[str, ...], copies: int, operators: Counter[str]) -> None:
    expected = Counter(
        {kernel: count * case.operators * copies for kernel, count in Counter(kernels).items()}
    )
    for part in case.less:
        expected["QLinearMul" if part.kind == "mul" else "QLinearConv"] += copies
    if operators != expected:
        shapes = ", ".join("x".join(map(str, shape)) for shape in case.inputs)
        raise SystemExit(
            f"{case.kind} of {shapes}: ONNX Runtime {onnxruntime.__version__} runs {dict(operators)} for {copies} "
            f"copies in int8, but the integer kernels are {dict(expected)}"
        )


class Run:
    """A session with its inputs and outputs in place."""

    def __init__(self, case: Case, integers: bool, copies: int, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        model = case.graph(integers and case.kind != "quantize", copies)
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            # Copies with the same inputs would be computed once.
            disabled_optimizers=["CommonSubexpressionElimination"],
        )
        optimized = onnx.load(folder / "optimized.onnx")
        self.operators = Counter(node.op_type.removeprefix("Nhwc") for node in optimized.graph.node)
        self.binding = self.session.io_binding()
        random = np.random.default_rng(1)
        for value in self.session.get_inputs():
            if value.type == "tensor(uint8)":
                array = random.integers(0, 256, value.shape, dtype=np.uint8)
            else:
                array = random.standard_normal(value.shape).astype(np.float32)
            self.binding.bind_ortvalue_input(value.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for value in self.session.get_outputs():
            self.binding.bind_output(value.name)
        self.session.run_with_iobinding(self.binding)
        outputs = zip(self.session.get_outputs(), self.binding.get_outputs(), strict=True)
        for value, result in list(outputs):
            self.binding.bind_ortvalue_output(value.name, result)

    def __call__(self) -> int:
        started = time.thread_time_ns()
        self.session.run_with_iobinding(self.binding)
        return time.thread_time_ns() - started


def least(runs: list[Run], seconds: float) -> list[int]:
    """The least time of each run, in nanoseconds; the runs take turns."""
    best = [2**62] * len(runs)
    ends, rounds = time.thread_time() + seconds, 0
    while rounds < 5 or time.thread_time() < ends:
        rounds += 1
        for index, run in enumerate(runs):
            # The first of three finds the caches as another graph left them.
            best[index] = min(best[index], run(), run(), run())
    return best


def fit(sizes: list[tuple[float, float]], measured: list[tuple[float, float]]) -> dict[str, float]:
    """The numbers of the model, and its largest relative error."""
    times = np.array([cost for cost, _ in measured])
    weights = 1 / np.maximum(times, [unknown for _, unknown in measured])
    columns = np.array([(1.0, *size) for size in sizes]) * weights[:, None]
    best, least_error = np.zeros(3), np.inf
    # The least absolute errors are those of a model that is exact for as many shapes as it has numbers.
    for used in ([1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        for exact in itertools.combinations(range(len(sizes)), len(used)):
            square = columns[np.ix_(exact, used)]
            if np.linalg.matrix_rank(square) < len(used):
                continue
            values = np.zeros(3)
            values[used] = np.linalg.solve(square, (times * weights)[list(exact)])
            error = float(np.abs(columns @ values - times * weights).sum())
            if values.min() >= 0 and error < least_error:
                best, least_error = values, error
    error = float(np.abs(columns @ best - times * weights).max())
    fixed, *others = best.tolist()
    per_unit, per_output = (float(f"{value:.4g}") for value in others)
    return {
        "fixed_ns": round(fixed, 1),
        "per_unit_ns": per_unit,
        "per_output_ns": per_output,
        "error": round(error, 2),
    }


def line(kind: str, row: dict) -> str:
    cells, typical, errors = [], [], []
    for arithmetic in ("float32", "int8"):
        cost = row[arithmetic]
        if cost is None:
            cells.append("-")
            typical.append(None)
            continue
        outputs = f" + {1000 * cost['per_output_ns']:.3g}" if cost["per_output_ns"] else ""
        cells.append(f"{cost['fixed_ns'] / 1000:.1f} µs, {1000 * cost['per_unit_ns']:.3g}{outputs} ns")
        time_ns = cost["fixed_ns"] + cost["per_unit_ns"] * row["typical_units"]
        typical.append((time_ns + cost["per_output_ns"] * row["typical_outputs"]) / 1000)
        errors.append(f"{100 * cost['error']:.0f} %")
    shown = ["-" if value is None else f"{value:.1f} µs" for value in typical]
    ratio = "-" if None in typical else f"{typical[1] / typical[0]:.2f}"
    units = f"{row['typical_units'] / 1000:,.0f}k {row['unit']}"
    kernels = " + ".join(row["kernels"]) or "-"
    return f"| `{kind}` | {' | '.join([*cells, units, *shown, ratio, ', '.join(errors), kernels])} |"


def cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists() and (
        model := re.search(r"^model name\s*: (.+)$", information.read_text(), re.MULTILINE)
    ):
        return model[1]
    return platform.processor() or platform.machine()


def instructions() -> list[str]:
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return []
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", information.read_text(), re.MULTILINE)
    return [name for name in INSTRUCTIONS if flags and name in flags[1].split()]


if __name__ == "__main__":
    main()
