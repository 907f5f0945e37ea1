"""Runs the operations of an OpenVINO model one by one on the CPU, each as a model of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino
import openvino.properties as properties
import openvino.properties.hint as hints
from openvino import opset1
from timmx.plugin import Operation

from timmx_openvino.graph import read_model, shared_core, values, varying_nodes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np


class Operations:
    """The operations that depend on the input.

    Args:
        path: the `.xml`, with its `.bin` next to it.

    Attributes:
        operations: in order of execution.
    """

    def __init__(self, path: Path) -> None:
        self._model = read_model(path)
        names = {port: name for name, port in values(self._model).items()}
        names |= {port: port.any_name for port in self._model.inputs}
        names |= {port.node.input_value(0): port.any_name for port in self._model.outputs}
        self._nodes = {node.get_friendly_name(): node for node in varying_nodes(self._model)}
        self._inputs = {
            name: [names.get(port.get_source_output()) for port in node.inputs()]
            for name, node in self._nodes.items()
        }
        self._outputs = {name: [names[port] for port in node.outputs()] for name, node in self._nodes.items()}
        self.operations = tuple(
            Operation(
                name,
                node.get_type_name(),
                tuple(dict.fromkeys(value for value in self._inputs[name] if value is not None)),
                tuple(self._outputs[name]),
            )
            for name, node in self._nodes.items()
        )

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one operation; see `Runner.run_operation`."""
        node = self._nodes[name]
        entries = {
            value: opset1.parameter(list(array.shape), openvino.Type(array.dtype), value)
            for value, array in inputs.items()
        }
        for port, value in zip(node.inputs(), self._inputs[name], strict=True):
            if value is not None:
                port.replace_source_output(entries[value].output(0))
        model = openvino.Model([opset1.result(port) for port in node.outputs()], list(entries.values()))
        compiled = shared_core().compile_model(
            model, "CPU", {properties.inference_num_threads: 1, hints.inference_precision: openvino.Type.f32}
        )
        results = compiled(list(inputs.values()))
        return {value: results[index] for index, value in enumerate(self._outputs[name])}
