"""Finds the weights of each layer in a `.bin` file, which has no index: each layer reads what its parameters say."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from timmx.plugin import ArtifactError, open_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx_ncnn.layers import Layer

HALF_TAG = 0x01306B47
"""In front of a weight in half precision; 0 is in front of one in float32."""


@dataclass(frozen=True)
class Stored:
    """The weights of one layer in the file.

    Attributes:
        start: of the first byte.
        end: after the last byte.
        floats: numbers stored in float32.
        halves: numbers stored in half precision.
    """

    start: int
    end: int
    floats: int
    halves: int


def stored_weights(layers: Sequence[Layer], path: Path) -> dict[str, Stored]:
    """The weights of each layer that has some, by the layer's name.

    Args:
        layers: of the `.param` file, of kinds that timmx writes.
        path: the `.bin` file.

    Raises:
        ArtifactError: the file has fewer or more weights than the layers, or cannot be read.
    """
    found = {}
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            place = 0
            for layer in layers:
                start, floats, halves = place, 0, 0
                for count, tagged in _weights(layer):
                    tag = _tag(file, place) if tagged else 0
                    place += 4 * tagged
                    if tag == HALF_TAG:
                        halves, place = halves + count, place + (2 * count + 3) // 4 * 4
                    elif tag == 0:
                        floats, place = floats + count, place + 4 * count
                    else:
                        raise _mismatch(path, f"the weights of {layer.name} do not start where they should")
                if place > size:
                    raise _mismatch(path, f"it ends before the weights of {layer.name}")
                if place > start:
                    found[layer.name] = Stored(start, place, floats, halves)
    except OSError as exc:
        raise ArtifactError(f"{path} cannot be read: {exc.strerror}", hint="check the path") from exc
    if place < size:
        raise _mismatch(path, f"it has {size - place:,} bytes more than the layers read")
    return found


def _tag(file: IO[bytes], place: int) -> int:
    file.seek(place)
    content = file.read(4)
    return struct.unpack("<I", content)[0] if len(content) == 4 else 0


def _mismatch(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{path} is cut off, or is not the file of its .param: {reason}",
        hint="copy both files together, or export it again",
    )


def _weights(layer: Layer) -> list[tuple[int, bool]]:
    """The number of values of each weight, in the order of the file, and whether a tag is in front of it."""

    def number(key: int, default: int = 0) -> int:
        value = layer.parameters.get(key, default)
        return value if isinstance(value, int) and value >= 0 else default

    match layer.kind:
        case "InnerProduct":
            return _with_bias(number(2), number(0), number(1))
        case "MemoryData":
            count = math.prod(max(number(key), 1) for key in (0, 1, 11, 2))
            return [(count, not number(21, 1))]
        case "BatchNorm":
            return [(number(0), False)] * 4
        case "GroupNorm":
            return [(number(1), False)] * (2 * number(3, 1))
        case "LayerNorm":
            return [(number(0), False)] * (2 * number(2, 1))
        case "RMSNorm":
            return [(number(0), False)] * number(2, 1)
        case "PReLU":
            return [(number(0), False)]
        case "Gemm":
            bias = [(number(8), True)] * (layer.parameters.get(10) == 4)
            return [(number(8) * number(9), True), *bias] if number(5) else []
        case "LSTM":
            directions = 2 if number(2) == 2 else 1
            return [
                (number(1), True),
                (4 * number(0) * directions, True),
                (4 * number(0) ** 2 * directions, True),
            ]
        case kind if kind.startswith(("Convolution", "Deconvolution")):
            return _with_bias(number(6), number(0), number(5))
    return []


def _with_bias(weight: int, bias: int, has_bias: int) -> list[tuple[int, bool]]:
    return [(weight, True), (bias, False)] if has_bias else [(weight, True)]
