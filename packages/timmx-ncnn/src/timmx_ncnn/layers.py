"""Layers of an ncnn network, and the builder that collects them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

Parameter = int | float | str | tuple[int, ...] | tuple[float, ...]

MOST_AXES = 4
"""Of an ncnn `Mat`: width, height, depth and channels."""


@dataclass(frozen=True)
class Weight:
    """A weight of a layer.

    Attributes:
        values: in float32, in the order of the file.
        tagged: it is preceded by a tag of four bytes, and may be stored in half precision.
    """

    values: np.ndarray
    tagged: bool = True


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer, as a line of a `.param` file states it, and its weights.

    Attributes:
        kind: ncnn's type, such as `Convolution`.
        name: unique in the file.
        inputs: names of the values ("blobs") that it takes.
        outputs: names of the values that it computes.
        parameters: by number; see ncnn's `docs/developer-guide/operators.md`.
        weights: in the order of the `.bin` file.
    """

    kind: str
    name: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    parameters: Mapping[int, Parameter] = field(default_factory=dict)
    weights: tuple[Weight, ...] = ()


@dataclass(frozen=True)
class Value:
    """What a layer computes.

    Attributes:
        name: of the value in the file.
        shape: of its `Mat`, from the outermost axis (channels) to the innermost one (width).
    """

    name: str
    shape: tuple[int, ...]


class Network:
    """Collects layers in order of execution.

    Args:
        name: of the input.
        shape: of the input, (C, H, W).
        outputs: names that no inner value may have.
    """

    def __init__(self, name: str, shape: tuple[int, ...], outputs: Sequence[str]) -> None:
        self.input = Value(name, shape)
        self.layers = [Layer(kind="Input", name=name, outputs=(name,), parameters=sizes(shape))]
        self._names = Counter([name, *outputs])
        self._reshaped: dict[tuple[str, tuple[int, ...]], Value] = {}

    def add(
        self,
        kind: str,
        name: str,
        inputs: Sequence[Value],
        shape: Sequence[int],
        parameters: Mapping[int, Parameter] | None = None,
        weights: tuple[Weight, ...] = (),
    ) -> Value:
        """Append a layer with one output."""
        (value,) = self.add_several(kind, name, inputs, [shape], parameters, weights)
        return value

    def add_several(
        self,
        kind: str,
        name: str,
        inputs: Sequence[Value],
        shapes: Sequence[Sequence[int]],
        parameters: Mapping[int, Parameter] | None = None,
        weights: tuple[Weight, ...] = (),
    ) -> list[Value]:
        """Append a layer with an output of each of the shapes."""
        name = self._unique(name)
        names = [name] if len(shapes) == 1 else [self._unique(f"{name}_{i}") for i in range(len(shapes))]
        takes = tuple(value.name for value in inputs)
        self.layers.append(
            Layer(
                kind=kind,
                name=name,
                inputs=takes,
                outputs=tuple(names),
                parameters=parameters or {},
                weights=weights,
            )
        )
        return [Value(name, tuple(shape)) for name, shape in zip(names, shapes, strict=True)]

    def reshape(self, value: Value, shape: tuple[int, ...]) -> Value:
        """The same numbers in another shape: a layer, unless the shape is the same or the layer exists."""
        if value.shape == shape:
            return value
        assert math.prod(shape) == math.prod(value.shape), f"{value} cannot have the shape {shape}"
        key = (value.name, shape)
        if key not in self._reshaped:
            self._reshaped[key] = self.add("Reshape", f"{value.name}_reshape", [value], shape, sizes(shape))
        return self._reshaped[key]

    def finish(self, outputs: Sequence[tuple[str, Value]]) -> list[Layer]:
        """All layers that the outputs need.

        ncnn computes a value again for each layer that takes it: so there is a `Split` where several do.

        Args:
            outputs: name and value of each.
        """
        needed = {value.name for _, value in outputs}
        layers = []
        for layer in reversed(self.layers):
            if layer.kind == "Input" or needed.intersection(layer.outputs):
                layers.append(layer)
                needed.update(layer.inputs)
        layers.reverse()
        for name, value in outputs:
            layers.append(Layer(kind="Output", name=name, inputs=(value.name,)))
        return _named(split(layers))

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else self._unique(f"{name}_{self._names[name] - 1}")


def sizes(shape: Sequence[int]) -> dict[int, Parameter]:
    """The parameters for a shape, of `Input`, `Reshape` and `MemoryData`."""
    numbers = {1: (0,), 2: (0, 1), 3: (0, 1, 2), 4: (0, 1, 11, 2)}[len(shape)]
    return dict(zip(numbers, reversed(shape), strict=True))


def split(layers: Sequence[Layer]) -> list[Layer]:
    """Insert a `Split` after each value that several layers take, or one layer several times."""
    users = Counter(name for layer in layers for name in layer.inputs)
    left = {name: iter(range(count)) for name, count in users.items() if count > 1}
    result = []
    for layer in layers:
        inputs = tuple(f"{name}_split_{next(left[name])}" if name in left else name for name in layer.inputs)
        result.append(replace(layer, inputs=inputs))
        for name in layer.outputs:
            if name in left:
                copies = tuple(f"{name}_split_{i}" for i in range(users[name]))
                result.append(Layer(kind="Split", name=f"{name}_split", inputs=(name,), outputs=copies))
    return result


def _named(layers: list[Layer]) -> list[Layer]:
    """Give the outputs their names, in place of the marks that `Network.finish` has added."""
    names = {layer.inputs[0]: layer.name for layer in layers if layer.kind == "Output"}
    return [
        replace(layer, outputs=tuple(names.get(name, name) for name in layer.outputs))
        for layer in layers
        if layer.kind != "Output"
    ]
