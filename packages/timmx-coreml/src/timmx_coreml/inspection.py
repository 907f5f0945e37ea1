"""What `timmx inspect` reports about a Core ML file. Imports neither torch nor coremltools."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from timmx_coreml.blob_layout import check_end
from timmx_coreml.errors import DAMAGE, damaged, not_readable
from timmx_coreml.features import ARRAY_DTYPES, read_input
from timmx_coreml.package import CoreMLFile, main_block, messages, read
from timmx_coreml.schema import schema
from timmx_coreml.targets import systems_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def inspect(path: Path) -> dict[str, Any]:
    """Report operations, parameters, precision, supported systems, and what keeps the model off the Neural Engine.

    Raises:
        ArtifactError: it is not a Core ML model, or its weights are missing or truncated.
    """
    file = read(path)
    try:
        return _report(file)
    except DAMAGE as exc:
        raise not_readable(path, exc) from exc


def _report(file: CoreMLFile) -> dict[str, Any]:
    report = {
        "kind": file.kind,
        "specification_version": file.model.specificationVersion,
        "runs_on": systems_of(file.model.specificationVersion),
        "weights_bytes": _weights_bytes(file),
        "inputs": [_feature(described) for described in file.model.description.input],
        "outputs": [_feature(described) for described in file.model.description.output],
    }
    report |= _ml_program(file) if file.kind == "mlprogram" else _neural_network(file)
    return report


def _feature(described: Any) -> dict[str, Any]:
    """Describe an input or output; a neuralnetwork's outputs have no shape."""
    kind = described.type.WhichOneof("Type")
    if kind == "imageType":
        feature = read_input(described)
        return {
            "name": feature.name,
            "shape": list(feature.shape),
            "dtype": "uint8",
            "picture": feature.colors,
        }
    if kind != "multiArrayType":
        return {"name": described.name, "shape": [], "dtype": str(kind).removesuffix("Type")}
    array = described.type.multiArrayType
    shape: list[Any] = [int(size) for size in array.shape]
    if array.WhichOneof("ShapeFlexibility") and shape:
        shape[0] = "batch"
    return {"name": described.name, "shape": shape, "dtype": ARRAY_DTYPES.get(array.dataType, "other")}


def _ml_program(file: CoreMLFile) -> dict[str, Any]:
    block = main_block(file.model)
    for operation in block.operations:
        if not operation.outputs:
            raise damaged(f"{file.path} is damaged: its operation {operation.type} has no outputs")
    constants = {
        operation.outputs[0].name: operation
        for operation in block.operations
        if operation.type == "const" or operation.type.startswith("constexpr_")
    }
    for name, operation in constants.items():
        for value in operation.attributes.values():
            if value.HasField("blobFileValue"):
                check_end(file.folder, value.blobFileValue.fileName, value.blobFileValue.offset, name)
    operations = [operation for operation in block.operations if operation.outputs[0].name not in constants]
    weights = [operation for operation in constants.values() if operation.type != "const"]
    nested = {name for operation in weights for name in _arguments(operation)}
    compressed = Counter(operation.type for operation in weights)
    return {
        "operations": _sorted(Counter(operation.type for operation in operations)),
        "compressed_weights": _sorted(compressed),
        "parameters": sum(
            math.prod(_dimensions(operation.outputs[0]))
            for operation in constants.values()
            if operation.type != "const" or operation.attributes["val"].HasField("blobFileValue")
            if operation.outputs[0].name not in nested  # not a palette or its indices
        ),
        "precision": _sorted(Counter(_dtype(operation.outputs[0]) for operation in operations)),
        "off_neural_engine": list(_off_neural_engine(file, operations)),
    }


_UNSUPPORTED = {
    "gather": "gathers run on the CPU",
    "gather_along_axis": "gathers run on the CPU",
    "gather_nd": "gathers run on the CPU",
    "scatter": "scatters run on the CPU",
    "scatter_along_axis": "scatters run on the CPU",
    "scatter_nd": "scatters run on the CPU",
    "topk": "sorting runs on the CPU",
    "argsort": "sorting runs on the CPU",
    "reduce_prod": "the engine has no product over an axis",
    "lstm": "recurrent cells run on the CPU",
    "gru": "recurrent cells run on the CPU",
    "rnn": "recurrent cells run on the CPU",
    "cumsum": "running sums run on the CPU",
    "non_zero": "results whose size depends on values run on the CPU",
    "conv3d": "convolutions of three dimensions run on the CPU or GPU",
}
"""Operations that do not run on the Neural Engine, and why.

Apple publishes no list. These are from measurements with MLComputePlan and from compiling for the engine:
roboflow/rf-detr pull request 1495, the "Capability surface" of ane-guide.readthedocs.io, and
hollance/neural-engine, `unsupported-layers.md`.
"""


def _off_neural_engine(file: CoreMLFile, operations: list[Any]) -> Iterator[str]:
    """Yield what keeps all or part of an mlprogram off the Neural Engine, one sentence each."""
    kinds = Counter(_operation_kind(operation) for operation in operations)
    for kind, reason in _UNSUPPORTED.items():
        if kinds[kind]:
            yield f"{kind} ({kinds[kind]}): {reason}."
    names = {described.name for described in file.model.description.input}
    float32_count = sum(
        _dtype(operation.outputs[0]) == "float32"
        and operation.type != "cast"
        and not _arguments(operation) & names
        for operation in operations
    )
    if float32_count:
        yield f"{float32_count} operations in float32: the Neural Engine computes in float16."
    feature = read_input(file.model.description.input[0])
    if feature.ranges:
        yield "With a batch size range, only the default runs on the Neural Engine. Use --batch-sizes instead."
    if feature.shapes and kinds["layer_norm"]:
        yield (
            f"layer_norm ({kinds['layer_norm']}) with enumerated batch sizes can keep the whole model off the engine "
            "(coremltools issue 1909)."
        )


def _operation_kind(operation: Any) -> str:
    if operation.type == "conv" and len(_dimensions(operation.outputs[0])) == 5:
        return "conv3d"
    return str(operation.type)


def _neural_network(file: CoreMLFile) -> dict[str, Any]:
    network = getattr(file.model, file.model.WhichOneof("Type"))
    weights = list(messages(network, "CoreML.Specification.WeightParams"))
    return {
        "operations": _sorted(Counter(layer.WhichOneof("layer") for layer in network.layers)),
        "parameters": sum(map(_weight_count, weights)),
        "precision": _sorted(Counter(_weight_form(message) for message in weights)),
    }


def _weight_form(message: Any) -> str:
    if message.floatValue:
        return "float32"
    if message.float16Value:
        return "float16"
    return f"{message.quantization.numberOfBits}-bit"


def _weight_count(message: Any) -> int:
    if message.floatValue:
        return len(message.floatValue)
    if message.float16Value:
        return len(message.float16Value) // 2
    return 8 * len(message.rawValue) // max(1, message.quantization.numberOfBits)


def _weights_bytes(file: CoreMLFile) -> int:
    """Return the size of the weight file, or of the `.mlmodel`, which contains the weights."""
    if file.folder is None:
        return file.path.stat().st_size
    return sum(path.stat().st_size for path in (file.folder / "weights").glob("*") if path.is_file())


_MOST_DIMENSIONS = 64
"""Of a tensor. The product of millions of sizes takes hours."""


def _arguments(operation: Any) -> set[str]:
    """Return the names of the variables that an operation reads."""
    return {argument.name for parameter in operation.inputs.values() for argument in parameter.arguments}


def _dimensions(output: Any) -> list[int]:
    """Return the sizes of a result; 1 for a dynamic dimension."""
    count = len(output.type.tensorType.dimensions)
    if count > _MOST_DIMENSIONS:
        raise ValueError(f"{output.name[:200]!r} has {count:,} dimensions")
    return [
        int(dimension.constant.size) if dimension.HasField("constant") else 1
        for dimension in output.type.tensorType.dimensions
    ]


def _dtype(output: Any) -> str:
    if not output.type.HasField("tensorType"):
        return "other"
    return str(schema("MIL_pb2").DataType.Name(output.type.tensorType.dataType)).lower()


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
