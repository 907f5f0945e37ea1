"""Small files of each format, written by hand, for tests of what timmx does with unusual ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def onnx_file(
    path: Path,
    location: str,
    *,
    where: str = "initializer",
    domain: str = "",
    change: Callable[[Any], object] = lambda model: None,
) -> Path:
    """Write `y = x @ w` with w, (4, 4), in another file."""
    from onnx import AttributeProto, TensorProto, helper

    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], domain=domain)]
    constants = [weights]
    if where == "constant":
        constant = helper.make_node("Constant", [], ["w"])
        constant.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(weights)
        nodes.insert(0, constant)
        constants = []
    elif where == "subgraph":
        branch = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["s"])],
            "branch",
            [],
            [helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 4])],
            [weights],
        )
        constants = [helper.make_tensor("c", TensorProto.BOOL, [], [True])]
        nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def litert_file(path: Path, custom: str, change: Callable[[Any], object] = lambda model: None) -> Path:
    """Write a model of one custom operation."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode, code.customCode = schema.BuiltinOperator.CUSTOM, custom
    code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes = [code]
    graph = schema.SubGraphT()
    graph.tensors = []
    for name in ("input", "output"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, [1, 4], schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [1]
    model.subgraphs = [graph]
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def core_ml_network(add: Callable[[Any], object]) -> Any:
    """A neural network of one layer, which `add` fills."""
    from timmx_coreml.schema import schema

    model = schema("Model_pb2").Model()
    model.specificationVersion = 4
    for side in (model.description.input, model.description.output):
        feature = side.add()
        feature.name = "input" if side is model.description.input else "output"
        feature.type.multiArrayType.shape.extend([1, 4])
        feature.type.multiArrayType.dataType = 65568
    layer = model.neuralNetwork.layers.add(name="first", input=["input"], output=["output"])
    add(layer)
    return model


def core_ml_program(add: Callable[[Any], object]) -> Any:
    """An ML program `output = identity(input)`, with what `add` puts into its block before that."""
    from timmx_coreml.schema import schema

    model = core_ml_network(lambda layer: None)
    program = model.mlProgram
    program.version = 1
    function = program.functions["main"]
    function.opset = "CoreML7"
    _tensor(function.inputs.add(name="input").type, 11, 1, 4)
    block = function.block_specializations["CoreML7"]
    add(block)
    operation = block.operations.add(type="identity")
    operation.inputs["x"].arguments.add(name="input")
    _tensor(operation.outputs.add(name="output").type, 11, 1, 4)
    block.outputs.append("output")
    assert isinstance(model, schema("Model_pb2").Model)
    return model


def core_ml_constant(block: Any, data_type: int, *sizes: int) -> Any:
    """Add a constant; returns its value, which has no content yet."""
    operation = block.operations.add(type="const")
    _tensor(operation.outputs.add(name="w").type, data_type, *sizes)
    value = operation.attributes["val"]
    _tensor(value.type, data_type, *sizes)
    return value


def _tensor(kind: Any, data_type: int, *sizes: int) -> None:
    kind.tensorType.dataType = data_type
    kind.tensorType.rank = len(sizes)
    for size in sizes:
        kind.tensorType.dimensions.add().constant.size = size


def core_ml_package(folder: Path, model: Any) -> Path:
    """Write a model as a package."""
    path = folder / "m.mlpackage"
    data = path / "Data" / "com.apple.CoreML"
    data.mkdir(parents=True)
    (data / "model.mlmodel").write_bytes(model.SerializeToString())
    item = {"path": "com.apple.CoreML/model.mlmodel"}
    manifest = {"itemInfoEntries": {"1": item}, "rootModelIdentifier": "1"}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    return path
