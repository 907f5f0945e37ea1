"""Changes the input of a graph to the bytes of an image."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from timmx_onnx.names import Names, add_constant


def take_bytes(model: ir.Model) -> None:
    """Change the input from float32 (N, C, H, W) with pixels in [0, 1] to uint8 (N, H, W, C), in place.

    It keeps its name and batch size. The conversion computes in float32 and rounds as PyTorch does when it divides
    bytes by 255, so results do not change. Cast comes first: it is what most runtimes have for bytes.

    Args:
        model: with one input, which it normalizes itself; of any precision.
    """
    graph = model.graph
    (pixels,) = graph.inputs
    assert pixels.shape is not None
    batch, channels, height, width = pixels.shape
    names = Names.of(graph)
    name = str(pixels.name)
    image = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape((batch, height, width, channels))
    )
    scale = add_constant(graph, names.unused(f"{name}_scale"), np.array(255, np.float32))
    uses = tuple(pixels.uses())
    cast, divided, converted = (
        ir.Value(name=names.unused(f"{name}_{kind}"), type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
        for kind, shape in (("float", image.shape), ("pixels", image.shape), ("nchw", pixels.shape))
    )
    to = [ir.AttrInt64("to", ir.DataType.FLOAT.value)]
    order = [ir.AttrInt64s("perm", (0, 3, 1, 2))]
    nodes = (
        ir.Node("", "Cast", [image], to, outputs=[cast], name=str(cast.name)),
        ir.Node("", "Div", [cast, scale], outputs=[divided], name=str(divided.name)),
        ir.Node("", "Transpose", [divided], order, outputs=[converted], name=str(converted.name)),
    )
    graph.inputs[0] = image
    for node, index in uses:
        node.replace_input_with(index, converted)
    graph.insert_before(graph[0], nodes)
