"""A `.tflite` as a file: recognised, read without a runtime, and written with its metadata."""

from __future__ import annotations

import mmap
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, Quantization, parse_json_object, require_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

IDENTIFIER = b"TFL3"
LIMIT = 2**31 - 1
"""The most bytes that a flatbuffer holds."""
LIMIT_HINT = "choose a smaller model, or use timmx onnx, which keeps large weights in a second file"
METADATA_NAME = "timmx"
"""The entry in the model's metadata list; its buffer holds our JSON."""

_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError)
"""What flatbuffers' accessors raise on bytes that are no flatbuffer."""


def check(path: Path) -> None:
    """Tell by its first bytes whether a file is a LiteRT model.

    Raises:
        ArtifactError: there is no such file, or it is something else.
    """
    require_file(path, "a LiteRT model")
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] != IDENTIFIER:
        raise ArtifactError(
            f"{path} is not a LiteRT model: it lacks the identifier TFL3 of a .tflite file",
            hint="name a .tflite file, or export it again",
        )


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The file's `schema_py_generated.Model`, its bytes left on the disk.

    Raises:
        ArtifactError: it is no LiteRT model, or it turns out to be damaged while it is read.
    """
    from ai_edge_litert import schema_py_generated as schema

    check(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield schema.Model.GetRootAs(content, 0)
    except _DAMAGE as exc:
        raise ArtifactError(
            f"{path} is damaged ({type(exc).__name__}: {exc})", hint="export it again, or copy it again"
        ) from exc


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata inside, {} where timmx did not write it.

    Raises:
        ArtifactError: the file is no LiteRT model, or its metadata is no JSON object.
    """
    with reading(path) as model:
        content = metadata_buffer(model, METADATA_NAME)
    return {} if content is None else parse_json_object(path, content)


def names_of(enumeration: type) -> dict[int, str]:
    """Code to name of one of the schema's enumerations, which Python's writer makes plain classes of."""
    return {code: name for name, code in vars(enumeration).items() if not name.startswith("_")}


def metadata_buffer(model: Any, name: str) -> bytes | None:
    """The bytes that a model's metadata list holds under a name, None where it has no such entry."""
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == name.encode():
            buffer = model.Buffers(entry.Buffer())
            return b"" if buffer.DataIsNone() else bytes(buffer.DataAsNumpy())
    return None


@dataclass(frozen=True)
class Edge:
    """The element type of an input or output, and what its integers stand for."""

    dtype: str
    quantization: Quantization | None


def edge_quantization(content: bytes) -> tuple[Edge, dict[str, Edge]]:
    """The input's edge, and each output's by its name in the one signature."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors, signature = model.subgraphs[0].tensors, model.signatureDefs[0]
    types = names_of(schema.TensorType)

    def edge(index: int) -> Edge:
        tensor = tensors[index]
        parameters = tensor.quantization
        if parameters is None or parameters.scale is None or not len(parameters.scale):
            return Edge(types[tensor.type].lower(), None)
        return Edge(
            types[tensor.type].lower(), Quantization(float(parameters.scale[0]), int(parameters.zeroPoint[0]))
        )

    return edge(signature.inputs[0].tensorIndex), {
        entry.name.decode(): edge(entry.tensorIndex) for entry in signature.outputs
    }


def finish(
    content: bytes | bytearray | memoryview,
    *,
    output_names: Sequence[str],
    description: str,
    metadata: Mapping[str, bytes],
) -> memoryview:
    """A converter's model as it is published: tensors named, metadata inside, weights aligned to 16 bytes.

    The input tensor is called `input`. The quantizer leaves large weights outside the flatbuffer, where older readers
    do not look for them: here all are inside.

    Args:
        content: what litert-torch or its quantizer gave.
        output_names: the outputs' names in the one signature, which become the tensors' names.
        metadata: entries of the model's metadata list: name to bytes.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = memoryview(content)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    model.description = description
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    for tensor in graph.tensors:
        if tensor.name in (b"input", *(name.encode() for name in output_names)):
            tensor.name += b"_"  # not one of the edges that get these names below
    for entry in (*signature.inputs, *signature.outputs):
        graph.tensors[entry.tensorIndex].name = entry.name
    entries = list(model.metadata or ())
    for buffer in model.buffers:
        _bring_inside(buffer, content)
    for name, value in metadata.items():
        entry, buffer = schema.MetadataT(), schema.BufferT()
        entry.name, entry.buffer = name.encode(), len(model.buffers)
        buffer.data = memoryview(value)
        model.buffers.append(buffer)
        entries.append(entry)
    model.metadata = entries
    weights = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(weights + weights // 16 + 2**20)
    aligned = _aligned(schema)
    model.buffers = [aligned(buffer.data) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return memoryview(builder.Bytes)[builder.Head() :]


def _bring_inside(buffer: Any, content: memoryview) -> None:
    if buffer.data is None and buffer.size:
        buffer.data = content[buffer.offset : buffer.offset + buffer.size]
    buffer.offset = buffer.size = 0


def _aligned(schema: Any) -> type:
    """A `BufferT` whose bytes begin at a multiple of 16, as the format demands and its Python writer forgets."""
    import numpy as np

    class AlignedBuffer(schema.BufferT):  # type: ignore[misc]
        data: Any

        def Pack(self, builder: Any) -> int:  # noqa: N802 - the base's name
            if self.data is not None:
                self.data = np.frombuffer(self.data, np.uint8)
                builder.Prep(16, len(self.data))
            return super().Pack(builder)

    return AlignedBuffer
