"""The layers with constant weights in an `openvino.Model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from timmx_openvino.graph import varying_nodes

if TYPE_CHECKING:
    import numpy as np
    import openvino

CONVOLUTIONS = ("Convolution", "GroupConvolution")
LINEAR = "MatMul"


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product.

    Attributes:
        node: whose second input is the weight.
        weight: float32, in the order of its axes in the graph.
    """

    node: openvino.Node
    weight: np.ndarray

    @property
    def inputs(self) -> int:
        """Of a linear layer: the number of inputs of one output."""
        transposed = bool(self.node.get_attributes().get("transpose_b"))
        return int(self.weight.shape[-1 if transposed else -2])

    @property
    def name(self) -> str:
        """The name of the node."""
        return str(self.node.get_friendly_name())


def layers(model: openvino.Model) -> list[Layer]:
    """The layers of a float32 graph, in order of execution."""
    found = []
    for node in varying_nodes(model):
        if node.get_type_name() in (*CONVOLUTIONS, LINEAR):
            weight = node.input_value(1).get_node()
            if weight.get_type_name() == "Constant":
                found.append(Layer(node, weight.data))
    return found
