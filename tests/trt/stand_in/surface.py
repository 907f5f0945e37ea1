"""The published surface of one version, read from its JSON file: classes, signatures, enums."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "surface"
NAMESPACES = re.compile(
    r"\b(?:typing|typing_extensions|collections\.abc)\.|nvinfer1::(?:v_1_0::)?|nvonnxparser::"
)


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    """The type, without namespaces: `SupportsInt`, `str`, `Dims`, `BuilderFlag`, ..."""
    required: bool


@dataclass(frozen=True)
class Signature:
    """One overload of a method, without `self`."""

    text: str
    parameters: tuple[Parameter, ...]

    def bind(self, positional: tuple, keywords: dict) -> dict[str, object] | None:
        """The arguments by name, or None if their number or names do not match."""
        names = [parameter.name for parameter in self.parameters]
        if len(positional) > len(names):
            return None
        bound = dict(zip(names, positional, strict=False))
        if bound.keys() & keywords.keys() or keywords.keys() - set(names):
            return None
        bound |= keywords
        missing = [one for one in self.parameters if one.required and one.name not in bound]
        return None if missing else bound


@dataclass(frozen=True)
class Property:
    kind: str
    writable: bool


@dataclass(frozen=True)
class Class:
    name: str
    bases: tuple[str, ...]
    constructible: bool
    methods: dict[str, tuple[Signature, ...]]
    properties: dict[str, Property]
    nested: dict[str, dict[str, int]]
    """Enums inside the class: name -> members."""


@dataclass(frozen=True)
class Surface:
    version: str
    enums: dict[str, dict[str, int]]
    classes: dict[str, Class]
    aliases: dict[str, str]
    """Names of data types: `float32` -> `FLOAT`."""


def read_json(version: str) -> dict:
    """The content of the file; `version` is "10.16" or "11.4"."""
    return json.loads((FOLDER / f"tensorrt-api-{version}.json").read_text("utf-8"))


@functools.cache
def read_surface(version: str) -> Surface:
    """The surface of "10.16" or "11.4"."""
    content = read_json(version)
    classes = {
        name: Class(
            name,
            tuple(entry["bases"]),
            entry["constructible"],
            {method: tuple(map(signature, texts)) for method, texts in entry["methods"].items()},
            {
                key: Property(NAMESPACES.sub("", one["type"]), one["writable"])
                for key, one in entry["properties"].items()
            },
            entry["nested"],
        )
        for name, entry in content["classes"].items()
    }
    return Surface(content["version"], content["enums"], classes, content["aliases"])


def signature(text: str) -> Signature:
    """`add(self: Adder, left: typing.SupportsInt = 0) -> int` as data."""
    inside = re.match(r"\w+\((.*)\)(?: -> .*)?$", text)[1]
    parameters = []
    for part in arguments(inside):
        name, _, rest = part.partition(":")
        if name in ("self", "this", "/", "*", "*args", "**kwargs"):
            continue
        kind, _, default = rest.partition(" = ")
        parameters.append(Parameter(name, NAMESPACES.sub("", kind.strip()), not default))
    return Signature(text, tuple(parameters))


def arguments(inside: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, part = [], 0, ""
    for character in inside:
        depth += (character in "[(<") - (character in "])>")
        if character == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += character
    return [one for one in [*parts, part.strip()] if one]
