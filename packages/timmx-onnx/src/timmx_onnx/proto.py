"""Reads an `.onnx` file with `onnx`, without its external weights."""

from __future__ import annotations

import math
import mmap
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError
from timmx.plugin import (
    ArtifactError,
    NotRegularFile,
    check_companion,
    open_file,
    parse_json_object,
    path_problem,
    read_file,
    require_file,
    shown,
)

from timmx_onnx.keys import DATA_KEY, METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST = 2**31 - 1
"""Of a protobuf message, in bytes."""

_MOST_DIMENSIONS = 64
"""Of a tensor. The product of millions of sizes takes hours."""


def read_proto(path: Path) -> onnx.ModelProto:
    """The graph of an `.onnx` file, without external data.

    Raises:
        ArtifactError: the file is not an ONNX model, or names weights outside its folder.
    """
    try:
        proto = onnx.load_model_from_string(read_file(path, _LARGEST))
    except (DecodeError, OSError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ArtifactError(
            f"{path} is not an ONNX file, or is damaged: {reason}", hint="export it again"
        ) from exc
    if not proto.ir_version or not proto.graph.node:
        raise ArtifactError(f"{path} is not an ONNX model: it has no graph", hint="export it again")
    for location in _all_locations(path, proto):
        _require_inside(path, location)
    return proto


def check_external_data(path: Path) -> None:
    """Refuse a file whose weights are outside its folder or are not files. Files without external data are not parsed.

    ONNX Runtime 1.32 refuses them too; earlier versions follow links.

    Raises:
        ArtifactError: it does, or it is not an ONNX model.
    """
    require_file(path, "an ONNX model")
    with open_file(path) as file:
        if not file.read(1):
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"location") < 0:  # the key of a path, in every tensor with external data
                return
    require_files(path, read_proto(path))


def _require_inside(path: Path, location: str) -> None:
    """Refuse a location that is not a path inside the folder of the file, links followed.

    Both files may be links to another folder, as in a cache of the Hugging Face Hub.
    """
    parts = location.split("/")
    problem = path_problem(location)
    if (
        not problem
        and not PurePosixPath(location).is_absolute()
        and ".." not in parts
        and "\\" not in location
    ):
        target = Path(os.path.realpath(path.parent / location))
        folders = (Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent)
        if any(target.is_relative_to(folder) for folder in folders):
            return
    raise ArtifactError(
        f"{path} is not loaded: it names weights in {shown(location[:200])!r}, which is not a file in its folder",
        hint="copy the weights next to it, or export it again",
    )


def _all_locations(path: Path, message: Any) -> Iterator[str]:
    """The paths of external data in all tensors of a message: weights, attributes, subgraphs, functions.

    Raises:
        ArtifactError: a text in the message is not UTF-8; protobuf gives it as bytes.
    """
    for field, value in message.ListFields():
        items = value if field.is_repeated else (value,)
        if field.type == field.TYPE_STRING and not all(isinstance(item, str) for item in items):
            raise ArtifactError(f"{path} is damaged: {field.name} is not UTF-8 text", hint="export it again")
        if field.message_type is None:
            continue
        for item in items:
            if hasattr(item, "ListFields"):
                yield from _all_locations(path, item)
        if field.full_name == "onnx.TensorProto.external_data":
            yield from (entry.value for entry in items if entry.key == "location")


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in an `.onnx` file, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not an ONNX model, its metadata is not a JSON object, or its weights are in a second
            file that is missing or not its own.
    """
    proto = read_proto(path)
    check_data(path, proto)
    text = _property(proto, METADATA_KEY)
    return {} if text is None else parse_json_object(path, text)


def check_data(path: Path, proto: onnx.ModelProto, expected: str | None = None) -> None:
    """Check that the second file with the weights is the one that was written with the graph.

    Files of other tools do not state its hash, and are not checked.

    Args:
        path: the file with the graph.
        proto: the graph.
        expected: SHA-256 of the weights; by default the one that the graph states.

    Raises:
        ArtifactError: it is missing, or has another content.
    """
    require_files(path, proto)
    expected = expected or _property(proto, DATA_KEY)
    for name in set(_locations(proto)) if expected else ():
        if expected and not {"/", "\\"}.intersection(name):  # runtimes refuse other folders
            check_companion(path, path.with_name(name), expected)


def require_files(path: Path, proto: onnx.ModelProto) -> None:
    """Check that files with external weights exist, and are not pipes or devices: ONNX Runtime would wait for them.

    Raises:
        ArtifactError: one of them is missing, or is a pipe or a device.
    """
    for name in set(_locations(proto)):
        try:
            open_file(path.parent / name).close()
        except NotRegularFile as exc:
            raise ArtifactError(
                f"the weights of {path} cannot be read: {name}: {exc.strerror}",
                hint="copy both files again, or export it again",
            ) from exc
        except FileNotFoundError:
            raise ArtifactError(
                f"{path.parent / name} is missing, and {path.name} needs it",
                hint=f"copy {name} into the folder of {path.name}, or export it again",
            ) from None
        except (OSError, ValueError):  # ONNX Runtime reports it
            continue


def _property(proto: onnx.ModelProto, key: str) -> str | None:
    return next((entry.value for entry in proto.metadata_props if entry.key == key), None)


def _locations(proto: onnx.ModelProto) -> Iterator[str]:
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def inspect(path: Path) -> dict[str, Any]:
    """Operations by type, the number of parameters, the opsets by domain, inputs and outputs.

    Raises:
        ArtifactError: the file is not an ONNX model, or a weight has an impossible shape.
    """
    proto = read_proto(path)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) > _MOST_DIMENSIONS or any(size < 0 for size in tensor.dims):
            raise ArtifactError(
                f"{path} is damaged: its weight {shown(tensor.name[:200])} has an impossible shape",
                hint="export it again",
            )
    packed = dict(filter(None, map(_packed, proto.graph.node)))
    operations = Counter(node.op_type for node in proto.graph.node)
    constants = {tensor.name for tensor in proto.graph.initializer}  # old files list them as inputs too
    return {
        "operations": dict(sorted(operations.items())),
        "parameters": sum(
            packed.get(tensor.name, math.prod(tensor.dims)) for tensor in proto.graph.initializer
        ),
        "opsets": {entry.domain: entry.version for entry in proto.opset_import},
        "inputs": [_describe(value) for value in proto.graph.input if value.name not in constants],
        "outputs": [_describe(value) for value in proto.graph.output],
    }


def _packed(node: onnx.NodeProto) -> tuple[str, int] | None:
    """The name of a node's packed weights, several in one byte, and their number; None if it has none."""
    if (node.domain, node.op_type) != ("com.microsoft", "MatMulNBits") or len(node.input) < 2:
        return None
    sizes = {attribute.name: attribute.i for attribute in node.attribute}
    return node.input[1], sizes.get("K", 0) * sizes.get("N", 0)


def _describe(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """An input or output of the graph; a dynamic size is shown by its name, or as `?`."""
    tensor = value.type.tensor_type
    names = onnx.TensorProto.DataType
    known = tensor.elem_type in names.values()
    dtype = names.Name(tensor.elem_type).lower() if known else f"type {tensor.elem_type}"
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
    own = path.with_name(external_name(path))
    return (own,) if own.name in _locations(read_proto(path)) and own.is_file() else ()


def external_name(path: Path) -> str:
    """The name of the file for the weights of `path`."""
    return f"{path.name}.data"
