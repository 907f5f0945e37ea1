"""The weights of linear layers in 4 bits, in blocks: ONNX Runtime's operator MatMulNBits."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from timmx_onnx.names import Names, add_constant
from timmx_onnx.weights import Layer, storable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

DOMAIN = "com.microsoft"
BLOCK = 32
"""Weights that share a scale and a zero point. On a trained vit_tiny_patch16_224, compared with float32: 16 weights
37.5 dB and 4.98 MB, 32 36.2 dB and 4.24 MB, 64 34.6 dB and 3.87 MB, 128 33.9 dB and 4.31 MB, as blocks are padded.
Without zero points 32 have 35.1 dB and 4.15 MB (ONNX Runtime 1.32)."""
_BLOCK_BYTES = BLOCK / 2 + 4 + 0.5


def linear_layers(graph: ir.Graph) -> list[Layer]:
    """The layers that `store_in_blocks` stores: products with one matrix, which takes less space than in 8 bits."""
    return [layer for layer in storable(graph) if _is_linear(layer) and _is_smaller(_matrix(layer).shape[0])]


def store_in_blocks(model: ir.Model, keeps: Callable[[ir.Node], bool] = lambda node: False) -> Counter[str]:
    """Store the weights of linear layers in 4 bits, with a scale and a zero point for each block of inputs, in place.

    A MatMul becomes a MatMulNBits, a Gemm a MatMulNBits and an Add. Activations stay in float32: the operator's
    `accuracy_level`, which permits ONNX Runtime to round them to 8 bits, is not set.

    Args:
        model: float32.
        keeps: returns whether a layer keeps its weights.

    Returns:
        The number of layers by operator.
    """
    graph = model.graph
    names = Names.of(graph)
    stored: Counter[str] = Counter()
    constants: dict[tuple[ir.Value, bool], list[ir.Value]] = {}
    for layer in linear_layers(graph):
        node = layer.node
        if keeps(node):
            continue
        stored[node.op_type] += 1
        activation, source = node.inputs[:2]
        assert source is not None
        matrix = _matrix(layer)
        key = source, matrix is layer.weight
        if key not in constants:
            constants[key] = [
                add_constant(graph, names.unused(f"{source.name}_{kind}"), array)
                for kind, array in zip(("int4", "scales", "zero_points"), _quantized(matrix), strict=True)
            ]
        rows, columns = matrix.shape
        sizes = {"K": rows, "N": columns, "bits": 4, "block_size": BLOCK}
        attributes = [ir.AttrInt64(name, size) for name, size in sizes.items()]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        inputs = [activation, *constants[key]]
        if bias is None:
            _become(node, DOMAIN, "MatMulNBits", inputs, attributes)
            continue
        output = node.outputs[0]
        product = ir.Value(name=names.unused(f"{output.name}_product"), type=output.type, shape=output.shape)
        product_node = ir.Node(
            DOMAIN, "MatMulNBits", inputs, attributes, outputs=[product], name=f"{node.name}_product"
        )
        graph.insert_before(node, product_node)
        _become(node, "", "Add", [product, bias], [])
    if stored:
        model.opset_imports[DOMAIN] = 1
    common.RemoveUnusedNodesPass()(model)
    return stored


def _is_linear(layer: Layer) -> bool:
    """Whether a layer multiplies by one matrix, scales nothing, and adds at most a bias."""
    node = layer.node
    if node.op_type == "MatMul":
        return layer.weight.ndim == 2
    attributes = node.attributes
    scales = [attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)]
    return node.op_type == "Gemm" and not attributes.get_int("transA", 0) and scales == [1.0, 1.0]


def _is_smaller(rows: int) -> bool:
    """Whether a column takes less space in blocks of 4 bits than in 8 bits with one scale; the last block is padded."""
    return -(-rows // BLOCK) * _BLOCK_BYTES < rows + 4


def _matrix(layer: Layer) -> NDArray[np.float32]:
    """The weight with its inputs first."""
    return layer.weight.T if layer.axis == 0 else layer.weight


def _become(
    node: ir.Node, domain: str, op_type: str, inputs: list[ir.Value | None], attributes: list[ir.Attr]
) -> None:
    """Change a node into another one with the same outputs."""
    node.domain, node.op_type = domain, op_type
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    node.attributes.clear()
    for attribute in attributes:
        node.attributes.add(attribute)


def _quantized(matrix: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
    """The packed weights, scales and zero points of a matrix, by ONNX Runtime's quantizer."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        # configures the root logger when it is imported (1.32), and would print each step of the converters
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            DefaultWeightOnlyQuantizer,
        )
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    quantizer = DefaultWeightOnlyQuantizer(DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=False))
    packed, scales, zero_points = quantizer.qbits_block_quant(np.ascontiguousarray(matrix))
    return packed, scales, zero_points.reshape(-1)
