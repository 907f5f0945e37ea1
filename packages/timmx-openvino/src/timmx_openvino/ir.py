"""Reads an OpenVINO `.xml` without OpenVINO: its metadata, its operations, and the size of its `.bin`."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from timmx.plugin import (
    ArtifactError,
    RuntimeUnavailable,
    check_companion,
    parse_json_object,
    read_file,
    require_file,
    shown,
)

if TYPE_CHECKING:
    from pathlib import Path

METADATA_KEY = "timmx"
"""The key in `rt_info`, which `openvino.Model.get_rt_info` reads."""

WEIGHTS_SUFFIX = ".bin"

IR_VERSION = 11
"""The version that OpenVINO 2022.1 to 2026 read and write."""

_LARGEST = 2**30
"""Of the `.xml`, in bytes; the largest models of timm have 5 MB."""

_DTYPES = {"f32": "float32", "f16": "float16", "f64": "float64", "bf16": "bfloat16"}
_INTEGERS = {
    f"{sign}{bits}": f"{name}{bits}"
    for sign, name in (("i", "int"), ("u", "uint"))
    for bits in (4, 8, 16, 32, 64)
}


@dataclass(kw_only=True)
class Layer:
    """A node of the graph, as the file states it.

    Attributes:
        data: its attributes, as text.
        sizes: of a result: the sizes of its input, -1 for a dynamic one.
        weights_end: of a constant: the place of the byte after it in the `.bin`.
    """

    name: str
    kind: str
    opset: str
    data: dict[str, str] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    weights_end: int = 0


@dataclass
class Graph:
    """What a `.xml` states.

    Attributes:
        layers: in the order of the file, without those of bodies of loops.
        metadata: the text under timmx's key; None if there is none.
    """

    version: int = 0
    layers: list[Layer] = field(default_factory=list)
    metadata: str | None = None


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in an OpenVINO `.xml`, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not an OpenVINO model, its metadata is not a JSON object, or the `.bin` with its
            weights is missing, cut off, or of another model.
        RuntimeUnavailable: it has a later version of the format.
    """
    graph = read_graph(path)
    content = {} if graph.metadata is None else parse_json_object(path, graph.metadata)
    check_weights(path, graph, content)
    return content


def check_weights(path: Path, graph: Graph, content: dict[str, Any]) -> None:
    """Check that the `.bin` is the one that was written with the graph; of other tools' files, that it is complete.

    Raises:
        ArtifactError: it is not.
    """
    weights = path.with_suffix(WEIGHTS_SUFFIX)
    facts = content.get("format")
    companions = facts.get("companions") if isinstance(facts, dict) else None
    expected = companions.get(WEIGHTS_SUFFIX) if isinstance(companions, dict) else None
    if isinstance(expected, str):
        check_companion(path, weights, expected)
        return
    needed = max((layer.weights_end for layer in graph.layers), default=0)
    if not needed:
        return
    if not weights.exists():
        raise ArtifactError(
            f"{weights} is missing, and {path.name} needs it",
            hint=f"copy {weights.name} into the folder of {path.name}, or export it again",
        )
    if (size := weights.stat().st_size) < needed:
        raise ArtifactError(
            f"{weights} is cut off: it has {size:,} bytes, and {path.name} needs {needed:,}",
            hint="copy both files again, or export it again",
        )


def read_graph(path: Path) -> Graph:
    """Parse the `.xml`.

    Raises:
        ArtifactError: the file is not an OpenVINO model.
        RuntimeUnavailable: it has a later version of the format.
    """
    require_file(path, "an OpenVINO model")
    parser = _Parser()
    try:
        parser.parse(read_file(path, _LARGEST))
    except (expat.ExpatError, ValueError, OSError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ArtifactError(
            f"{path} is not an OpenVINO model, or is damaged: {reason}", hint="export it again"
        ) from exc
    graph = parser.graph
    if not graph.version or not graph.layers:
        raise ArtifactError(f"{path} is not an OpenVINO model: it has no graph", hint="export it again")
    if graph.version > IR_VERSION:
        raise RuntimeUnavailable(
            f"{path} has version {graph.version} of OpenVINO IR, and this timmx-openvino reads up to {IR_VERSION}",
            hint="uv pip install --upgrade timmx-openvino openvino",
        )
    for kind, name in (("Parameter", "input"), ("Result", "output")):
        if not any(layer.kind == kind for layer in graph.layers):
            raise ArtifactError(
                f"{path} is not an OpenVINO model, or is damaged: it has no {name}", hint="export it again"
            )
    return graph


def inspect(path: Path) -> dict[str, Any]:
    """Operations by type, the number of parameters and their share by element type, inputs and outputs.

    Raises:
        ArtifactError: the file is not an OpenVINO model.
    """
    graph = read_graph(path)
    operations = Counter(layer.kind for layer in graph.layers if layer.kind != "Const")
    numbers: Counter[str] = Counter()
    for layer in graph.layers:
        if layer.kind == "Const" and (dtype := layer.data.get("element_type", "")) not in (
            "i64",
            "i32",
            "boolean",
        ):
            numbers[dtype_name(dtype)] += _count(path, layer)
    total = sum(numbers.values())
    return {
        "operations": dict(sorted(operations.items())),
        "parameters": total,
        "weights": {name: round(count / total, 4) for name, count in sorted(numbers.items()) if total},
        "opsets": sorted({layer.opset for layer in graph.layers}),
        "ir_version": graph.version,
        "inputs": [_describe(layer) for layer in graph.layers if layer.kind == "Parameter"],
        "outputs": [_describe(layer) for layer in graph.layers if layer.kind == "Result"],
    }


def dtype_name(element_type: str) -> str:
    """numpy's name of OpenVINO's element type, which itself if it has none."""
    return _DTYPES.get(element_type) or _INTEGERS.get(element_type) or element_type


class _Parser:
    """Collects a `Graph` from the events of expat; entities of a document type are refused."""

    def __init__(self) -> None:
        self.graph = Graph()
        self._path: list[str] = []
        self._dimension = ""
        self._expat = expat.ParserCreate()
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._text
        self._expat.StartDoctypeDeclHandler = self._refuse

    def parse(self, content: bytes) -> None:
        self._expat.Parse(content, True)

    def _refuse(self, *_: object) -> None:
        raise ValueError("it has a document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._path.append(name)
        match self._path:
            case ["net"]:
                self.graph.version = _number(attributes.get("version"))
            case ["net", "layers", "layer"]:
                name, kind, opset = (attributes.get(key, "") for key in ("name", "type", "version"))
                self.graph.layers.append(Layer(name=name, kind=kind, opset=opset))
            case ["net", "layers", "layer", "data"]:
                layer = self.graph.layers[-1]
                layer.data = attributes
                layer.weights_end = _number(attributes.get("offset")) + _number(attributes.get("size"))
            case ["net", "layers", "layer", _, "port"]:
                self.graph.layers[-1].data.setdefault("precision", attributes.get("precision", ""))
            case ["net", "rt_info", key] if key == METADATA_KEY:
                self.graph.metadata = attributes.get("value")

    def _end(self, name: str) -> None:
        if self._path == ["net", "layers", "layer", "input", "port", "dim"]:
            self.graph.layers[-1].sizes.append(_number(self._dimension))
        self._dimension = ""
        self._path.pop()

    def _text(self, text: str) -> None:
        if self._path[-1] == "dim":
            self._dimension += text


def _number(text: str | None) -> int:
    """An integer that the file states; 0 if it states none.

    Raises:
        ValueError: it is not an integer that a file of this format may have.
    """
    value = int(text or 0)
    if not -1 <= value < 2**63:  # -1 is a dynamic size
        raise ValueError(f"{value} is not a size")
    return value


def _count(path: Path, layer: Layer) -> int:
    try:
        sizes = [_number(size) for size in layer.data.get("shape", "").split(",") if size.strip()]
    except ValueError as exc:
        raise ArtifactError(
            f"{path} is damaged: the constant {shown(layer.name[:200])} has an impossible shape",
            hint="export it again",
        ) from exc
    return math.prod(sizes)


def _describe(layer: Layer) -> dict[str, Any]:
    """An input or output; the dynamic size is called `batch`."""
    if layer.kind == "Parameter":
        sizes = [text.strip() for text in layer.data.get("shape", "").split(",") if text.strip()]
        shape = [int(size) if size.isdecimal() else "batch" for size in sizes]
    else:
        shape = [size if size >= 0 else "batch" for size in layer.sizes]
    dtype = layer.data.get("element_type") or layer.data.get("precision", "").lower().replace("fp", "f")
    return {"name": layer.name, "shape": shape, "dtype": dtype_name(dtype)}
