"""Reads a `.param` file without ncnn: its layers, and the metadata in the comment behind them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from timmx.plugin import ArtifactError, check_companion, parse_json_object, read_file, require_file, shown

from timmx_ncnn.layers import Layer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from timmx_ncnn.layers import Parameter

MAGIC = "7767517"
"""The first line of the text format."""

WEIGHTS_SUFFIX = ".bin"

METADATA_MARK = "# timmx "
"""What the line with the metadata starts with. ncnn reads as many lines as the second line says, and no further."""

_LARGEST = 2**28
"""Of a `.param`, in bytes; the largest models of timm have 1 MB."""

_MOST_PARAMETERS = 32
"""ncnn's `ParamDict` has this many."""


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata in a `.param` file, {} if timmx did not write it.

    Raises:
        ArtifactError: the file is not of this format, its metadata is not a JSON object, its layers are not those that
            it was written with, or the `.bin` with its weights is missing, cut off, or of another model.
    """
    network, rest = _read(path)
    texts = [line.removeprefix(METADATA_MARK) for line in rest if line.startswith(METADATA_MARK)]
    content = parse_json_object(path, texts[-1]) if texts else {}
    facts = content.get("format")
    facts = facts if isinstance(facts, dict) else {}
    expected = facts.get("layers_sha256")
    if isinstance(expected, str) and digest(network) != expected:
        raise ArtifactError(
            f"{path} has other layers than it was written with: they were changed",
            hint="export it again; a network without timmx's comments can be inspected",
        )
    companions = facts.get("companions")
    expected = companions.get(WEIGHTS_SUFFIX) if isinstance(companions, dict) else None
    if isinstance(expected, str):
        check_companion(path, path.with_suffix(WEIGHTS_SUFFIX), expected)
    return content


def digest(network: Sequence[str]) -> str:
    """SHA-256 of the lines of a network, without the comments behind it; white space does not count."""
    return hashlib.sha256("\n".join(" ".join(line.split()) for line in network).encode()).hexdigest()


def read_layers(path: Path) -> list[Layer]:
    """The layers of a `.param` file, without weights.

    Raises:
        ArtifactError: the file is not of this format, is damaged or cut off.
    """
    network, _ = _read(path)
    layers = []
    known: set[str] = set()
    for number, line in enumerate(network[2:]):
        try:
            layer = _layer(line.split())
        except (ValueError, IndexError) as exc:
            raise _damaged(path, f"line {number + 3} is not a layer") from exc
        if missing := [name for name in layer.inputs if name not in known]:
            raise _damaged(
                path, f"no layer computes {shown(missing[0][:100])} before line {number + 3} takes it"
            )
        if repeated := known.intersection(layer.outputs):
            raise _damaged(path, f"two layers compute {shown(sorted(repeated)[0][:100])}")
        known.update(layer.outputs)
        layers.append(layer)
    return layers


def _read(path: Path) -> tuple[list[str], list[str]]:
    """The lines of the network, of which two are in front of the layers, and those behind it."""
    require_file(path, "a .param file of ncnn")
    try:
        text = read_file(path, _LARGEST).decode()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ArtifactError(f"{path} is not a .param file of ncnn: {reason}", hint="export it again") from exc
    lines = text.split("\n")
    if lines[0].strip() != MAGIC:
        raise ArtifactError(
            f"{path} is not a .param file of ncnn: its first line is not {MAGIC}", hint="export it again"
        )
    counts = lines[1].split() if len(lines) > 1 else []
    if len(counts) != 2 or not all(count.isascii() and count.isdecimal() for count in counts):
        raise _damaged(path, "its second line does not have the numbers of layers and values")
    count = int(counts[0])
    layers = [line for line in lines[2:] if line.strip() and not line.startswith("#")][:count]
    if not count or len(layers) < count:
        raise _damaged(path, f"it has {len(layers)} of {count} layers")
    return [*lines[:2], *layers], lines[2 + count :]


def _layer(words: list[str]) -> Layer:
    kind, name, inputs, outputs = words[0], words[1], int(words[2]), int(words[3])
    end = 4 + inputs + outputs
    if min(inputs, outputs) < 0 or len(words) < end:
        raise ValueError("it has fewer names than it says")
    parameters = dict(_parameter(word) for word in words[end:])
    return Layer(
        kind=kind,
        name=name,
        inputs=tuple(words[4 : 4 + inputs]),
        outputs=tuple(words[4 + inputs : end]),
        parameters=parameters,
    )


def _parameter(word: str) -> tuple[int, Parameter]:
    key, separator, text = word.partition("=")
    number = int(key)
    if not separator:
        raise ValueError("it has no value")
    if number <= -23300:
        count, *values = text.split(",")
        if len(values) != int(count):
            raise ValueError("it has fewer values than it says")
        return _checked(-23300 - number), tuple(_number(value) for value in values)
    return _checked(number), text.strip('"') if text.startswith('"') else _number(text)


def _checked(number: int) -> int:
    if not 0 <= number < _MOST_PARAMETERS:
        raise ValueError(f"{number} is not the number of a parameter")
    return number


def _number(text: str) -> float:
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def _damaged(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {reason}", hint="copy it again, or export it again")
