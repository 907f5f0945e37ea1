"""Runs the operations of a `.tflite` one by one in the LiteRT runtime, with its reference kernels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from timmx.plugin import Operation, read_file

from timmx_litert.model_file import IDENTIFIER, LIMIT, aligned_buffer, move_inside, names_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np


class Operations:
    """The operations of the one subgraph, each of which can be run as a model of its own.

    Args:
        path: a file that the runtime loads.

    Attributes:
        operations: in order; empty if one of them has subgraphs.
    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        content = memoryview(read_file(path, LIMIT))
        self._model = schema.ModelT.InitFromPackedBuf(content, 0)
        for buffer in self._model.buffers:
            move_inside(buffer, content)
        graph = self._model.subgraphs[0]
        names = names_of(schema.BuiltinOperator)
        signature = self._model.signatureDefs[0]
        self._names = {
            int(entry.tensorIndex): entry.name.decode() for entry in (*signature.inputs, *signature.outputs)
        }
        self._operators: dict[str, Any] = {}
        operations = []
        for index, operator in enumerate(graph.operators):
            code = self._model.operatorCodes[operator.opcodeIndex]
            kind = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
            outputs = tuple(self._name(tensor) for tensor in operator.outputs)
            self._operators[f"{index} {kind}"] = operator
            inputs = tuple(dict.fromkeys(self._name(tensor) for tensor in self._varying(operator)))
            operations.append(Operation(f"{index} {kind}", kind, inputs, outputs))
        self.operations = tuple(operations) if len(self._model.subgraphs) == 1 else ()

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one operation; see `Runner.run_operation`."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        operator = self._operators[name]
        tensors = list(
            dict.fromkeys(int(index) for index in (*operator.inputs, *operator.outputs) if index >= 0)
        )
        interpreter = Interpreter(
            model_content=self._single(operator, tensors, inputs),
            experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
            num_threads=1,
        )
        interpreter.allocate_tensors()
        details = interpreter.get_input_details()
        varying = list(dict.fromkeys(map(int, self._varying(operator))))
        for index, detail in zip(varying, details, strict=True):
            interpreter.set_tensor(detail["index"], inputs[self._name(index)])
        interpreter.invoke()
        outputs = zip(operator.outputs, interpreter.get_output_details(), strict=True)
        return {self._name(index): interpreter.get_tensor(detail["index"]) for index, detail in outputs}

    def _name(self, index: int) -> str:
        return self._names.get(int(index), f"tensor {index}")

    def _varying(self, operator: Any) -> list[int]:
        tensors, buffers = self._model.subgraphs[0].tensors, self._model.buffers
        return [
            int(index)
            for index in operator.inputs
            if index >= 0 and buffers[tensors[index].buffer].data is None and not tensors[index].isVariable
        ]

    def _single(self, operator: Any, tensors: list[int], inputs: Mapping[str, np.ndarray]) -> bytes:
        """A model of one operation; its inputs have the sizes of the arrays."""
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        source = self._model.subgraphs[0].tensors
        aligned = aligned_buffer(schema)
        graph, model = schema.SubGraphT(), schema.ModelT()
        model.version, model.subgraphs = self._model.version, [graph]
        model.operatorCodes = [self._model.operatorCodes[operator.opcodeIndex]]
        model.buffers, graph.tensors = [aligned(None)], []
        for index in tensors:
            tensor = copy.copy(source[index])
            data = self._model.buffers[tensor.buffer].data
            tensor.buffer = len(model.buffers)
            model.buffers.append(aligned(data))
            array = inputs.get(self._name(index)) if data is None else None
            if array is not None:
                tensor.shape, tensor.shapeSignature = list(array.shape), None
            graph.tensors.append(tensor)
        single = copy.copy(operator)
        single.opcodeIndex = 0
        single.inputs = [tensors.index(int(index)) if index >= 0 else -1 for index in operator.inputs]
        single.outputs = [tensors.index(int(index)) for index in operator.outputs]
        graph.operators, graph.outputs = [single], single.outputs
        graph.inputs = [tensors.index(index) for index in dict.fromkeys(self._varying(operator))]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        return bytes(builder.Output())
