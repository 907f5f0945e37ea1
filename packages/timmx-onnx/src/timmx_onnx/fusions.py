"""Keeps fusions of ONNX Runtime from changing which layers of a graph with Q/DQ pairs compute in integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from timmx_onnx.names import Names, add_constant
from timmx_onnx.weights import constant, layers


def merge_biases(model: ir.Model, chosen: set[str]) -> None:
    """Write each chosen matrix product and the sum that adds its bias as one Gemm, between reshapes.

    ONNX Runtime has an integer kernel for a Gemm with a quantized bias, but only for matrices. It also merges both, but
    with a bias in float, for which it has no kernel: the product would be computed in float, from a weight that is
    dequantized in each run (1.32; a test_convnext takes 2.3 ms instead of 1.2 ms).

    Args:
        model: changed; has the shapes of all values.
        chosen: names of nodes; a Gemm has the name of the product that it replaces, and the reshape before it is added.
    """
    graph = model.graph
    names = Names.of(graph)
    for layer in list(layers(graph)):
        product, columns = layer.node, layer.weight.shape[-1]
        uses = tuple(product.outputs[0].uses())
        if product.op_type != "MatMul" or product.name not in chosen or len(uses) != 1:
            continue
        add, index = uses[0]
        bias = constant(add.inputs[1 - index]) if add.op_type == "Add" else None
        result = add.outputs[0]
        if bias is None or bias.shape != (columns,) or layer.weight.ndim != 2 or result.shape is None:
            continue
        sizes = [size if isinstance(size, int) else -1 for size in result.shape]
        if -1 in sizes[1:]:
            continue
        source, weight = product.inputs[:2]
        assert source is not None
        created: list[ir.Node] = []
        rows = source
        if len(sizes) > 2:
            created.append(
                _reshape(graph, names, source, [-1, layer.weight.shape[0]], f"{product.name}_rows")
            )
            chosen.add(str(created[0].name))
            rows = created[0].outputs[0]
        gemm = ir.node("Gemm", [rows, weight, add.inputs[1 - index]], name=product.name)
        gemm.outputs[0].type, gemm.outputs[0].name = result.type, names.unused(f"{product.name}_sum")
        created.append(gemm)
        if len(sizes) > 2:
            created.append(_reshape(graph, names, gemm.outputs[0], sizes, f"{product.name}_columns"))
        merged = created[-1].outputs[0]
        merged.shape = result.shape
        graph.insert_before(add, created)
        name, result.name = result.name, names.unused(f"{result.name}_replaced")
        merged.name = name
        ir.convenience.replace_all_uses_with(result, merged, replace_graph_outputs=True)
        graph.remove([add, product], safe=True)


def _reshape(graph: ir.Graph, names: Names, value: ir.Value, shape: list[int], name: str) -> ir.Node:
    """A node that gives a value another shape; not in the graph yet."""
    target = add_constant(graph, names.unused(f"{name}_shape"), np.array(shape, np.int64))
    node = ir.node("Reshape", [value, target], name=name)
    node.outputs[0].type, node.outputs[0].name = value.type, names.unused(f"{name}_reshaped")
    return node


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
