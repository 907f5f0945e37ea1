"""Reads a `.tflite` without a runtime, and writes one with its metadata."""

from __future__ import annotations

import math
import mmap
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, Quantization, open_file, parse_json_object, require_file, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

IDENTIFIER = b"TFL3"
LIMIT = 2**31 - 1
"""The maximum size of a flatbuffer in bytes."""
GRAPH_SIZE = 64 * 2**20
"""Bytes reserved for the graph itself when the size of the weights is compared with the limit."""
LIMIT_HINT = "choose a smaller model, or use timmx onnx, which keeps large weights in a second file"
METADATA_NAME = "timmx"
"""The entry in the model's metadata list; its buffer holds our JSON."""

_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError)
"""What flatbuffers' accessors raise on bytes that are not a flatbuffer."""


def check(path: Path) -> None:
    """Check by its first bytes that a file is a LiteRT model.

    Raises:
        ArtifactError: there is no such file, or it is something else.
    """
    require_file(path, "a LiteRT model")
    with open_file(path) as file:
        head = file.read(8)
    if head[4:8] != IDENTIFIER:
        raise ArtifactError(
            f"{path} is not a LiteRT model: it lacks the identifier TFL3 of a .tflite file",
            hint="name a .tflite file, or export it again",
        )


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """Open a file as `schema_py_generated.Model`, memory-mapped.

    Raises:
        ArtifactError: the file is not a LiteRT model, or is found to be damaged while it is read.
    """
    from ai_edge_litert import schema_py_generated as schema

    check(path)
    try:
        with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield schema.Model.GetRootAs(content, 0)
    except _DAMAGE as exc:
        raise ArtifactError(
            f"{path} is damaged ({type(exc).__name__}: {exc})", hint="export it again, or copy it again"
        ) from exc


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in the file, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not a LiteRT model, or its metadata is not a JSON object.
    """
    with reading(path) as model:
        content = metadata_buffer(model, METADATA_NAME)
    return {} if content is None else parse_json_object(path, content)


def require_own_weights(path: Path) -> None:
    """Refuse a model whose weights are in other files, which LiteRT would look for by the paths in the model.

    Raises:
        ArtifactError: the file is not a LiteRT model, or names other files.
    """
    with reading(path) as model:
        names = [
            (model.ExternalBufferGroups(index).Name() or b"").decode(errors="replace")
            for index in range(at_most(model.ExternalBufferGroupsLength(), 1000, "external files"))
        ]
        external = bool(names) or model.ExternalBuffersLength() > 0
    if external:
        raise ArtifactError(
            f"{path} has weights in other files, which timmx does not open: {', '.join(names)[:200] or 'unnamed'}",
            hint="write the model into one file",
        )


def require_possible_tensors(path: Path) -> None:
    """Refuse a model with a tensor so large that the runtime would take all memory for it.

    Raises:
        ArtifactError: the file is not a LiteRT model, or has such a tensor.
    """
    with reading(path) as model:
        for graph in map(model.Subgraphs, range(at_most(model.SubgraphsLength(), 1000, "graphs"))):
            for index in range(at_most(graph.TensorsLength(), _MOST_TENSORS, "tensors")):
                tensor = graph.Tensors(index)
                sizes = [tensor.Shape(axis) for axis in range(at_most(tensor.ShapeLength(), 64, "sizes"))]
                if math.prod(sizes) > _MOST_ELEMENTS:
                    raise ValueError(f"a tensor of {' x '.join(map(str, sizes))} numbers")


_MOST_TENSORS = 1_000_000
_MOST_ELEMENTS = 2**29
"""Of a tensor, 2 GB as float32: the limit of a file with its weights, and more than an activation on a phone."""


def custom_operations(path: Path) -> list[str]:
    """The names of the operations that are not part of LiteRT, such as `FlexErf`.

    Raises:
        ArtifactError: the file is not a LiteRT model.
    """
    with reading(path) as model:
        codes = (
            model.OperatorCodes(index) for index in range(at_most(model.OperatorCodesLength(), 1000, "codes"))
        )
        names = [code.CustomCode() for code in codes]
    return [shown(name.decode(errors="replace")) for name in names if name]


def at_most(count: int, most: int, what: str) -> int:
    """A number of entries that a file states. A flatbuffer can state a long list of one small entry.

    Raises:
        ValueError: there are more than `most`.
    """
    if count > most:
        raise ValueError(f"{count} {what}, and at most {most} are possible")
    return count


def names_of(enumeration: type) -> dict[int, str]:
    """Code to name of one of the schema's enumerations, which are plain classes in Python."""
    return {code: name for name, code in vars(enumeration).items() if not name.startswith("_")}


def metadata_buffer(model: Any, name: str) -> bytes | None:
    """The bytes of an entry in a model's metadata list, None if there is no such entry."""
    for index in range(at_most(model.MetadataLength(), 10_000, "entries of metadata")):
        entry = model.Metadata(index)
        if entry.Name() == name.encode():
            buffer = model.Buffers(entry.Buffer())
            return b"" if buffer.DataIsNone() else bytes(buffer.DataAsNumpy())
    return None


def flatten_biases(content: bytes) -> bytes:
    """Give the bias of a convolution or matrix product one axis, as the quantizer expects it.

    litert-torch folds a constant that follows a linear layer, such as a layer scale, into its bias, which then has the
    shape (1, 1, 1, N): the quantizer (0.10) takes its first axis for the channels, and the runtime refuses the file.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    changes: dict[int, bytes] = {}
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    operators = schema.BuiltinOperator
    linear = {operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.FULLY_CONNECTED}
    for position in range(graph.OperatorsLength()):
        operation = graph.Operators(position)
        code = codes[operation.OpcodeIndex()]
        if (
            max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) not in linear
            or operation.InputsLength() < 3
        ):
            continue
        index = operation.Inputs(2)
        tensor = graph.Tensors(index) if index >= 0 else None
        if tensor is None or tensor.ShapeLength() < 2 or math.prod(tensor.ShapeAsNumpy()[:-1]) != 1:
            continue
        table = tensor._tab
        start = table.Vector(table.Offset(_SHAPE_FIELD))
        channels = int(tensor.Shape(tensor.ShapeLength() - 1))
        changes[start - 4] = struct.pack("<ii", 1, channels)  # the number of axes, and the only one
    if not changes:
        return content
    changed = bytearray(content)
    for start, length_and_size in changes.items():
        changed[start : start + 8] = length_and_size
    return bytes(changed)


_SHAPE_FIELD = 4
"""Where a flatbuffer's table of fields has the offset of a tensor's shape."""


@dataclass(frozen=True)
class IOTensor:
    """The element type and quantization of an input or output."""

    dtype: str
    quantization: Quantization | None


def read_io_tensors(content: bytes) -> tuple[IOTensor, dict[str, IOTensor]]:
    """The input, and the outputs by their names in the one signature."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors, signature = model.subgraphs[0].tensors, model.signatureDefs[0]
    types = names_of(schema.TensorType)

    def read(index: int) -> IOTensor:
        tensor = tensors[index]
        dtype, parameters = types[tensor.type].lower(), tensor.quantization
        if parameters is None or parameters.scale is None or not len(parameters.scale):
            return IOTensor(dtype, None)
        return IOTensor(dtype, Quantization(float(parameters.scale[0]), int(parameters.zeroPoint[0])))

    return read(signature.inputs[0].tensorIndex), {
        entry.name.decode(): read(entry.tensorIndex) for entry in signature.outputs
    }


def finish(
    content: bytes | bytearray | memoryview,
    *,
    output_names: Sequence[str],
    description: str,
    metadata: Mapping[str, bytes],
) -> memoryview:
    """Name the tensors of a converted model, add the metadata, and align the weights to 16 bytes.

    The input tensor is called `input`. The quantizer leaves large weights outside the flatbuffer, where older readers
    do not look for them: this moves all of them inside.

    Args:
        content: the output of litert-torch or its quantizer.
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
            tensor.name += b"_"  # these names are assigned to the inputs and outputs below
    for entry in (*signature.inputs, *signature.outputs):
        graph.tensors[entry.tensorIndex].name = entry.name
    entries = list(model.metadata or ())
    for buffer in model.buffers:
        move_inside(buffer, content)
    for name, value in metadata.items():
        entry, buffer = schema.MetadataT(), schema.BufferT()
        entry.name, entry.buffer = name.encode(), len(model.buffers)
        buffer.data = memoryview(value)
        model.buffers.append(buffer)
        entries.append(entry)
    model.metadata = entries
    weights = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(weights + weights // 16 + 2**20)
    aligned = aligned_buffer(schema)
    model.buffers = [aligned(buffer.data) for buffer in model.buffers]
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return memoryview(builder.Bytes)[builder.Head() :]


def move_inside(buffer: Any, content: memoryview) -> None:
    """Take the bytes of a buffer that lie outside the flatbuffer."""
    if buffer.data is None and buffer.size:
        buffer.data = content[buffer.offset : buffer.offset + buffer.size]
    buffer.offset = buffer.size = 0


def aligned_buffer(schema: Any) -> type:
    """A `BufferT` whose bytes begin at a multiple of 16, which the format requires and its Python writer omits."""
    import numpy as np

    class AlignedBuffer(schema.BufferT):  # type: ignore[misc]
        data: Any

        def Pack(self, builder: Any) -> int:  # noqa: N802 - the base class's name
            if self.data is not None:
                self.data = np.frombuffer(self.data, np.uint8)
                builder.Prep(16, len(self.data))
            return super().Pack(builder)

    return AlignedBuffer
