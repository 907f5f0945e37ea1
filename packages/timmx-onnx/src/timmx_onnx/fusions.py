"""Keeps fusions of ONNX Runtime from changing which layers of a graph with Q/DQ pairs compute in integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from timmx_onnx.names import Names, add_constant
from timmx_onnx.weights import constant, layers

if TYPE_CHECKING:
    from collections.abc import Collection


def keep_products(model: ir.Model, chosen: Collection[str]) -> None:
    """Keep ONNX Runtime from fusing the chosen matrix products with the sum that adds their bias.

    It makes a Gemm of both before it chooses integer kernels, and that one has none, as its bias is not quantized: it
    computes in float and dequantizes its weight in each run (1.32; a test_convnext takes 2.3 ms instead of 1.2 ms). It
    fuses biases with one axis only, so these get as many as the product. With a dynamic batch size it fuses none.
    """
    names = Names.of(model.graph)
    for node in model.graph:
        shape = node.outputs[0].shape
        if node.op_type != "MatMul" or node.name not in chosen or shape is None or len(shape) < 3:
            continue
        for user, index in tuple(node.outputs[0].uses()):
            bias = constant(user.inputs[1 - index]) if user.op_type == "Add" else None
            if bias is None or bias.ndim != 1:
                continue
            row = bias.reshape(*[1] * (len(shape) - 1), -1)
            name = names.unused(f"{node.name}_bias")
            user.replace_input_with(1 - index, add_constant(model.graph, name, row))


def keep_float_layers(model: ir.Model) -> None:
    """Keep ONNX Runtime from quantizing layers in float whose input and output are quantized for others.

    It would round their weights to 8 bits with one scale for all channels, and compute in integers what the plan keeps
    in float for its accuracy (1.32). It does so only if the input is dequantized with one scale, so these layers get
    one for each channel, all equal, which takes no more time.
    """
    names = Names.of(model.graph)
    for layer in list(layers(model.graph)):
        node, weight = layer.node, layer.weight
        activation = node.inputs[0]
        source = activation.producer() if activation is not None else None
        if activation is None or source is None or source.op_type != "DequantizeLinear":
            continue
        parameters = [constant(value) for value in source.inputs[1:]]
        if any(value is None or value.size > 1 for value in parameters):
            continue
        channels = weight.size // weight.shape[layer.axis]
        if node.op_type == "Conv":
            channels = weight.shape[1] * node.attributes.get_int("group", 1)
        elif node.op_type == "ConvTranspose":
            channels = weight.shape[0]
        rows = [
            add_constant(model.graph, names.unused(f"{node.name}_{kind}"), np.full(channels, value))
            for kind, value in zip(("scale", "zero_point"), parameters, strict=False)
        ]
        axis = 1 if "Conv" in node.op_type else -1
        created = ir.node(
            "DequantizeLinear", [source.inputs[0], *rows], {"axis": axis}, name=f"{node.name}_dequantize"
        )
        output = created.outputs[0]
        output.name, output.type = names.unused(f"{node.name}_input"), activation.type
        node.replace_input_with(0, output)
        model.graph.insert_before(node, created)
