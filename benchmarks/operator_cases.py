"""The operators that operator_speed.py measures, with shapes of image models at 96 and 224 pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from operator_graphs import SCALE, Block, Case, Graph, Kind, Shape


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
    pixels = new * new
    units = pixels * out * (c // groups) * k * k
    parts = pixels if groups == c else pixels * out
    shape = ((1, c, size, size),)
    if s > 1:
        block = lambda graph, x: one(graph, x, c, out)  # noqa: E731
        return Case(kind, block, shape, units, parts, join="product", less=(product((1, out, new, new)),))
    if c == out:
        return Case(kind, lambda graph, x: one(graph, x, c, c), shape, units, parts)
    pair = lambda graph, x: one(graph, one(graph, x, c, out), out, c)  # noqa: E731
    # With one pixel, the time is that of reading the weights.
    parts = pixels * (c + out) if size > 1 else 0
    return Case(kind, pair, shape, 2 * units, parts, operators=2)


def product(shape: Shape) -> Case:
    return Case("mul", binary("Mul"), (shape, shape), float(np.prod(shape)))


def depthwise(shape: Shape) -> Case:
    _, c, size, _ = shape
    return conv("depthwise", c, c, size, groups=c)


def boundary(shape: Shape) -> Case:
    """An integer convolution between two in float: the conversions before and after it, and the changes of layout."""
    _, c, _, _ = shape
    whole = depthwise(shape).block

    def in_float(graph: Graph, x: str) -> str:
        integers, graph.integers = graph.integers, False
        if x in graph.stored:
            # ONNX Runtime quantizes a float convolution unless its input has a scale per channel.
            constants = [
                graph.constant(np.full(c, SCALE, np.float32)),
                graph.constant(np.full(c, 128, np.uint8)),
            ]
            x = graph.node("DequantizeLinear", [graph.stored[x], *constants], axis=1)
        y = whole(graph, x)
        graph.integers = integers
        return y

    def both(graph: Graph, x: str) -> str:
        return whole(graph, graph.quantized(in_float(graph, x)))

    less = (Case("float", in_float, (shape,), 0.0), depthwise(shape))
    return Case("boundary", both, (shape,), float(np.prod(shape)), less=less)


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


def of_channels(kind: str, shape: Shape) -> Case:
    """The product of a map with one value per channel."""
    _, c, _, _ = shape
    return replace(elementwise(kind, binary("Mul"), shape, (1, c, 1, 1)), parts=float(c))


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

    block = reduce if kind == "reduce_mean" else unary("GlobalAveragePool")
    less = (product((1, c, 1, 1)),)
    case = Case(kind, block, ((1, c, size, size),), c * size * size, c, join="product", less=less)
    return case if kind.endswith("_alone") else between_convs(case, (1, c, 1, 1))


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
PIXELS, CHANNELS = "output pixels", "channels"


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
                        (16, 24, 3),
                        (48, 12, 3),
                        (144, 6, 5),
                        (576, 6, 5),
                        (160, 14, 7),
                    )
                ),
                conv("depthwise", 96, 96, 112, 3, groups=96, s=2),
                conv("depthwise", 144, 144, 28, 5, groups=144, s=2),
            ],
            PIXELS,
        ),
        "depthwise_partial": Kind(
            MACS,
            ("QLinearConv",),
            [
                conv("depthwise_partial", c, c, size, k, groups=c)
                for c, size, k in (
                    (72, 28, 5),
                    (40, 56, 3),
                    (120, 28, 3),
                    (24, 24, 3),
                    (72, 12, 3),
                    (72, 6, 5),
                    (40, 56, 7),
                )
            ],
            PIXELS,
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
            [after_conv(of_channels("mul_channel", s)) for s in MAPS],
            CHANNELS,
        ),
        "mul_channel_alone": Kind(
            OUTPUTS, ("QLinearMul",), [of_channels("mul_channel_alone", s) for s in MAPS], CHANNELS
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
        **{
            kind: Kind(INPUTS, ("QLinearGlobalAveragePool",), [mean(kind, *s) for s in MEANS], CHANNELS)
            for kind in ("global_average_pool", "global_average_pool_alone")
        },
        "reduce_mean": Kind(INPUTS, (), [mean("reduce_mean", *s) for s in MEANS], CHANNELS),
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
        "boundary": Kind(
            OUTPUTS,
            ("QuantizeLinear", "DequantizeLinear", "Transpose", "Transpose", "ReorderInput", "ReorderOutput"),
            [boundary(s) for s in (*MAPS, (1, 48, 6, 6), (1, 96, 24, 24))],
        ),
        "transpose": Kind(OUTPUTS, ("Transpose",), [transpose(s) for s in MAPS]),
        "quantize": Kind(OUTPUTS, ("QuantizeLinear",), [conversion("quantize", s) for s in MAPS]),
        "dequantize": Kind(OUTPUTS, ("DequantizeLinear",), [conversion("dequantize", s) for s in MAPS]),
    }


GEMMS = ((1280, 1000), (576, 1000), (2048, 1000), (192, 1000), (576, 144))
MEANS = ((576, 7), (1280, 7), (96, 56), (240, 14), (576, 3))
