"""The operations and tensors of a float `.tflite`, from which a quantization plan is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from timmx.plugin import WeightKey

from timmx_litert.model_file import names_of


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    Attributes:
        name: unique in the graph.
        shape: fixed sizes.
        constant: its values are in the file.
        floating: its values are float32.
    """

    name: str
    shape: tuple[int, ...]
    constant: bool
    floating: bool


@dataclass(frozen=True)
class Operation:
    """One operation, in the order of execution.

    Attributes:
        kind: the format's name, such as `CONV_2D`.
        inputs: indices of tensors, without omitted optional ones.
        outputs: indices of tensors.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Graph:
    """The one subgraph of a converted model.

    Args:
        content: a `.tflite`.
    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graph = model.subgraphs[0]
        names = names_of(schema.BuiltinOperator)
        codes = [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
        self.tensors = [
            Tensor(
                name=tensor.name.decode(),
                shape=tuple(map(int, tensor.shape)) if tensor.shape is not None else (),
                constant=model.buffers[tensor.buffer].data is not None,
                floating=tensor.type == schema.TensorType.FLOAT32,
            )
            for tensor in graph.tensors
        ]
        self.operations = [
            Operation(
                kind=codes[operation.opcodeIndex],
                inputs=tuple(int(index) for index in operation.inputs if index >= 0),
                outputs=tuple(map(int, operation.outputs)),
            )
            for operation in graph.operators
        ]
        self._data = [model.buffers[tensor.buffer].data for tensor in graph.tensors]  # views of the content
        self.input = int(graph.inputs[0])
        self.outputs = tuple(map(int, graph.outputs))

    @cached_property
    def consumers(self) -> dict[int, list[Operation]]:
        """Tensor index to the operations that take it."""
        consumers: dict[int, list[Operation]] = {}
        for operation in self.operations:
            for index in operation.inputs:
                consumers.setdefault(index, []).append(operation)
        return consumers

    def weight(self, operation: Operation) -> WeightKey | None:
        """Recognizes the constant weight of a convolution or matrix product; None if it has none."""
        index = operation.inputs[1] if len(operation.inputs) > 1 else -1
        if index < 0 or not self.tensors[index].constant or not self.tensors[index].floating:
            return None
        return WeightKey.of(np.asarray(self._data[index], np.uint8).view(np.float32))

    def activations(self, operation: Operation) -> list[int]:
        """The inputs of an operation that depend on the model's input."""
        return [index for index in operation.inputs if not self.tensors[index].constant]

    def scope(self, operation: Operation) -> str:
        """The name of an operation in the quantizer's recipes."""
        return "".join(f"{self.tensors[index].name};" for index in operation.outputs)
