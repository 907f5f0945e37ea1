"""An `.onnx` file read by plain `onnx`, its weights left where they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError
from timmx.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

METADATA_KEY = "timmx"
"""The key in `ModelProto.metadata_props`."""


def read_proto(path: Path) -> onnx.ModelProto:
    """The graph of an `.onnx` file, without external data.

    Raises:
        ArtifactError: the file is no ONNX model.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as exc:
        raise ArtifactError(f"{path} is no ONNX file, or is damaged: {exc}. Export it again.") from exc
    if not proto.ir_version or not proto.graph.node:
        raise ArtifactError(f"{path} is no ONNX model: it has no graph.")
    return proto


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata inside an `.onnx` file, {} where timmx did not write it.

    Raises:
        ArtifactError: the file is no ONNX model.
    """
    for entry in read_proto(path).metadata_props:
        if entry.key == METADATA_KEY:
            return json.loads(entry.value)
    return {}


def external_files(path: Path) -> tuple[Path, ...]:
    """The files beside `path` that hold its weights, sorted; none where they are inside.

    Raises:
        ArtifactError: the file is no ONNX model.
    """
    names = {
        entry.value
        for tensor in read_proto(path).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(path.parent / name for name in sorted(names) if (path.parent / name).is_file())
