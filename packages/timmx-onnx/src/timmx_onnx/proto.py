"""Reads an `.onnx` file with `onnx`, without its external weights."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError
from timmx.plugin import ArtifactError, parse_json_object

if TYPE_CHECKING:
    from pathlib import Path

METADATA_KEY = "timmx"
"""The key in `ModelProto.metadata_props`."""


def read_proto(path: Path) -> onnx.ModelProto:
    """The graph of an `.onnx` file, without external data.

    Raises:
        ArtifactError: the file is not an ONNX model.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as exc:
        raise ArtifactError(
            f"{path} is not an ONNX file, or is damaged: {exc}", hint="export it again"
        ) from exc
    if not proto.ir_version or not proto.graph.node:
        raise ArtifactError(f"{path} is not an ONNX model: it has no graph", hint="export it again")
    return proto


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in an `.onnx` file, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not an ONNX model, or its metadata is not a JSON object.
    """
    for entry in read_proto(path).metadata_props:
        if entry.key == METADATA_KEY:
            return parse_json_object(path, entry.value)
    return {}


def inspect(path: Path) -> dict[str, Any]:
    """Operations by type, the number of parameters, the opsets by domain, inputs and outputs.

    Raises:
        ArtifactError: the file is not an ONNX model.
    """
    proto = read_proto(path)
    operations = Counter(node.op_type for node in proto.graph.node)
    constants = {tensor.name for tensor in proto.graph.initializer}  # old files list them as inputs too
    return {
        "operations": dict(sorted(operations.items())),
        "parameters": sum(math.prod(tensor.dims) for tensor in proto.graph.initializer),
        "opsets": {entry.domain: entry.version for entry in proto.opset_import},
        "inputs": [_describe(value) for value in proto.graph.input if value.name not in constants],
        "outputs": [_describe(value) for value in proto.graph.output],
    }


def _describe(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """An input or output of the graph; a dynamic size is shown by its name, or as `?`."""
    tensor = value.type.tensor_type
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = [
        size.dim_value if size.HasField("dim_value") else size.dim_param or "?" for size in tensor.shape.dim
    ]
    return {
        "name": value.name,
        "shape": shape,
        "dtype": {"float": "float32", "double": "float64"}.get(dtype, dtype),
    }


def external_files(path: Path) -> tuple[Path, ...]:
    """The file next to `path` with its weights, `path.data`; empty if the weights are inside.

    A copy of an `.onnx` file still refers to the weights of its original: those do not belong to the copy.

    Raises:
        ArtifactError: the file is not an ONNX model.
    """
    names = {
        entry.value
        for tensor in read_proto(path).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    own = path.with_name(external_name(path))
    return (own,) if own.name in names and own.is_file() else ()


def external_name(path: Path) -> str:
    """The name of the file for the weights of `path`."""
    return f"{path.name}.data"
