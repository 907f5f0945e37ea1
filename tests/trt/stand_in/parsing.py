"""The network, and the parser that fills it from ONNX; ONNX's checker checks the graph."""

from __future__ import annotations

import re
from pathlib import Path

from .pybind import Flagged, Inner

NAMES_OF_TYPES = {
    1: "FLOAT",
    2: "UINT8",
    3: "INT8",
    6: "INT32",
    7: "INT64",
    9: "BOOL",
    10: "HALF",
    16: "BF16",
}
"""ONNX's numbers of element types that an input or output of an engine may have."""
NODE_IN_MESSAGE = re.compile(
    r"Name: (?P<name>\S*) OpType: (?P<kind>\w+)|op_type: ?(?P<kind2>\w+), node name: (?P<name2>[^)]*)\)"
)
LONGEST_NAME = 128


class Network(Inner):
    shown = "INetworkDefinition"

    def __init__(self, trt, logger, flags: int):
        super().__init__(trt)
        self.logger, self.flags, self.model = logger, flags, None
        self.inputs, self.outputs, self._name = [], [], ""
        if not self.strongly_typed:
            self.log(
                "WARNING", "The network is weakly typed: deprecated, and casts do not bind its precisions."
            )

    @property
    def strongly_typed(self) -> bool:
        flag = self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return self.trt.__version__ >= "11" or bool(self.flags >> int(flag) & 1)

    def get_flag(self, flag) -> bool:
        if flag == self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            return self.strongly_typed
        return bool(self.flags >> int(flag) & 1)

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str | None) -> None:
        if value is not None and len(value) > LONGEST_NAME:
            self.log("ERROR", f"A network's name has at most {LONGEST_NAME} characters, not {len(value)}.")
        else:
            self._name = value or ""

    @property
    def num_layers(self) -> int:
        return 0 if self.model is None else len(self.model.graph.node)

    def __len__(self) -> int:
        return self.num_layers

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index):
        return self.inputs[index] if 0 <= index < len(self.inputs) else None

    def get_output(self, index):
        return self.outputs[index] if 0 <= index < len(self.outputs) else None

    def fill(self, model) -> None:
        """Fill the network from a valid graph."""
        self.model = model
        constants = {one.name for one in model.graph.initializer}
        self.inputs = [Tensor(self.trt, one, True) for one in model.graph.input if one.name not in constants]
        self.outputs = [Tensor(self.trt, one, False) for one in model.graph.output]


class Tensor(Inner):
    """An input or an output of a network, from its entry in the ONNX graph."""

    shown = "ITensor"

    def __init__(self, trt, value_info, is_input: bool):
        super().__init__(trt)
        tensor_type = value_info.type.tensor_type
        self.name = value_info.name
        self.dtype = getattr(trt.DataType, NAMES_OF_TYPES[tensor_type.elem_type])
        self.symbols = tuple(one.dim_param for one in tensor_type.shape.dim)
        self.shape = trt.Dims(
            [one.dim_value if one.HasField("dim_value") else -1 for one in tensor_type.shape.dim]
        )
        self.is_network_input, self.is_network_output = is_input, not is_input
        self.is_shape_tensor, self.is_execution_tensor = False, True


class Parser(Flagged, Inner):
    shown = "OnnxParser"

    def __init__(self, trt, network: Network, logger):
        super().__init__(trt)
        self.network, self.logger, self.errors = network, logger, []
        self.flags = 1 << int(trt.OnnxParserFlag.NATIVE_INSTANCENORM)

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index):
        if not 0 <= index < len(self.errors):
            raise IndexError("Out of bounds")
        return self.errors[index]

    def clear_errors(self) -> None:
        self.errors = []

    def parse_from_file(self, model) -> bool:
        path = Path(model if isinstance(model, str) else model.decode())
        if not path.is_file():
            return self.refuse("MODEL_DESERIALIZE_FAILED", f"Could not open file {path}")
        return self.parse(path.read_bytes(), str(path))

    def parse(self, model, path=None) -> bool:
        """Parse bytes; external weights are read from the folder of `path`."""
        import onnx
        from google.protobuf.message import DecodeError

        try:
            graph = onnx.load_model_from_string(bytes(model))
        except DecodeError as error:
            return self.refuse("MODEL_DESERIALIZE_FAILED", f"Failed to parse the ONNX model: {error}")
        if not graph.graph.node:
            return self.refuse("INVALID_GRAPH", "The model has no node.")
        try:
            onnx.load_external_data_for_model(graph, str(Path(path).parent if path else Path()))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            return self.refuse("INVALID_GRAPH", f"Failed to open the external weights: {error}")
        for problem in self.problems(graph):
            self.refuse(*problem)
        if self.errors:
            return False
        self.network.fill(graph)
        return True

    def problems(self, graph):
        """The problems of a graph: code, text, node and position of the node."""
        import onnx

        if self.trt.trouble.parse:
            yield "UNSUPPORTED_NODE", self.trt.trouble.parse, graph.graph.node[0], 0
        own = {(function.domain, function.name) for function in graph.functions}
        for place, node in enumerate(graph.graph.node):
            if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in own:
                yield "UNSUPPORTED_NODE", f"No importer registered for op: {node.op_type}", node, place
        try:
            onnx.checker.check_model(graph, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            place, node = named_node(graph, str(error))
            code = "INVALID_GRAPH" if node is None else "INVALID_NODE"
            yield code, str(error), node, place

    def refuse(self, code: str, text: str, node=None, place: int = -1) -> bool:
        self.errors.append(ParserError(self.trt, code, text, node, place))
        self.log("ERROR", f"ModelImporter: {self.errors[-1]}")
        return False


def named_node(graph, message: str):
    """The position and the node that a message of ONNX's checker names."""
    match = NODE_IN_MESSAGE.search(message)
    if match is not None:
        name, kind = match["name"] or match["name2"], match["kind"] or match["kind2"]
        for place, node in enumerate(graph.graph.node):
            if node.name == name and node.op_type == kind:
                return place, node
    return -1, None


class ParserError(Inner):
    shown = "ParserError"

    def __init__(self, trt, code: str, text: str, node, place: int):
        super().__init__(trt)
        self.the_code, self.text, self.the_node, self.place = code, text, node, place

    def code(self):
        return getattr(self.trt.ErrorCode, self.the_code)

    def desc(self):
        return self.text

    def file(self):
        return "stand_in/parsing.py"

    def line(self):
        return 1

    def func(self):
        return "parse"

    def node(self):
        return self.place

    def node_name(self):
        return "" if self.the_node is None else self.the_node.name

    def node_operator(self):
        return "" if self.the_node is None else self.the_node.op_type

    def local_function_stack(self):
        return []

    def local_function_stack_size(self):
        return 0

    def __str__(self):
        where = f"In node {self.place} with name: {self.node_name()} and operator: {self.node_operator()} "
        return f"{where if self.the_node is not None else ''}(parse): {self.the_code}: {self.text}"

    __repr__ = __str__


BEHAVIOURS = (Network, Tensor, Parser, ParserError)
