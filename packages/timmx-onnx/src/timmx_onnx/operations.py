"""Runs the nodes of an `.onnx` file one by one in ONNX Runtime, without optimizations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnxruntime
from timmx.plugin import Operation

from timmx_onnx.names import Names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np


class Operations:
    """The nodes of a file's graph, each of which can be run as a graph of its own.

    Args:
        path: the file, with its external data next to it, which is read into memory.

    Attributes:
        operations: the nodes, in the order of the file.
    """

    def __init__(self, path: Path) -> None:
        self._model = onnx.load(path)
        graph = self._model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        names = Names(())
        self._nodes: dict[str, onnx.NodeProto] = {}
        for node in graph.node:
            self._nodes[names.unused(node.name or node.op_type)] = node
        self.operations = tuple(
            Operation(
                name,
                node.op_type,
                tuple(value for value in _inputs(node) if value not in self._constants),
                tuple(filter(None, node.output)),
            )
            for name, node in self._nodes.items()
        )

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one node; see `Runner.run_operation`."""
        node = self._nodes[name]
        outputs = list(filter(None, node.output))
        graph = onnx.helper.make_graph(
            [node],
            "operation",
            [
                onnx.helper.make_tensor_value_info(
                    value, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                )
                for value, array in inputs.items()
            ],
            [onnx.ValueInfoProto(name=value) for value in outputs],
            [self._constants[value] for value in _inputs(node) if value in self._constants],
        )
        model = onnx.helper.make_model(
            graph, opset_imports=self._model.opset_import, functions=self._model.functions
        )
        model.ir_version = self._model.ir_version
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = 1
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))


def _inputs(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, those that its subgraphs read from the graph among them."""
    return list(dict.fromkeys([*filter(None, node.input), *_captured(node)]))


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            for inner in graph.node:
                yield from (value for value in _inputs(inner) if value not in own)
                own.update(inner.output)
