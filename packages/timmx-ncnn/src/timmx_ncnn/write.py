"""Writes layers as the text of a `.param` file and the bytes of a `.bin` file."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

import numpy as np
from timmx.plugin import shown

from timmx_ncnn.param_file import MAGIC
from timmx_ncnn.weights import HALF_TAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from timmx.plugin import Metadata

    from timmx_ncnn.layers import Layer, Parameter


_LARGEST = float(np.finfo(np.float32).max)


def to_text(layers: Sequence[Layer]) -> str:
    """The text of a `.param` file."""
    blobs = {name for layer in layers for name in layer.outputs}
    lines = [MAGIC, f"{len(layers)} {len(blobs)}"]
    for layer in layers:
        names = " ".join((*layer.inputs, *layer.outputs))
        parameters = " ".join(_parameter(number, value) for number, value in sorted(layer.parameters.items()))
        counts = f"{len(layer.inputs)} {len(layer.outputs)}"
        lines.append(f"{layer.kind:<24} {layer.name:<24} {counts} {names} {parameters}".rstrip())
    return "\n".join(lines) + "\n"


def write_weights(layers: Sequence[Layer], file: IO[bytes], *, half: bool) -> None:
    """Write the weights in the order of the layers.

    Args:
        half: those with a tag in half precision.
    """
    for layer in layers:
        for weight in layer.weights:
            if weight.tagged:
                file.write(np.uint32(HALF_TAG if half else 0).astype("<u4").tobytes())
            if weight.tagged and half:
                data = weight.values.astype("<f2").tobytes()
                file.write(data + bytes(-len(data) % 4))
            else:
                file.write(weight.values.astype("<f4").tobytes())


def _parameter(number: int, value: Parameter) -> str:
    if isinstance(value, str):
        return f'{number}="{value}"'
    if isinstance(value, tuple):  # an array, whose length comes first
        return f"{-23300 - number}={len(value)},{','.join(map(_number, value))}"
    return f"{number}={_number(value)}"


def _number(value: float) -> str:
    """A number as ncnn reads it: one with a point or an exponent is a float, and infinity is the largest float."""
    if isinstance(value, int):
        return str(value)
    text = f"{min(max(value, -_LARGEST), _LARGEST):.9g}"
    return text if "." in text or "e" in text else f"{text}.0"


def essentials(metadata: Metadata) -> str:
    """Comments that say how to feed the file, for a reader who has only the file."""
    entry = metadata.input
    lines = [
        f"{shown(metadata.model.name)}, {metadata.precision}; ncnn reads the layers above only",
        f"{entry.name}: {' x '.join(map(str, entry.size))}, {entry.color_order}",
    ]
    if entry.normalized_in_graph:
        lines[-1] += ", pixel values divided by 255"
    else:  # as arguments of ncnn::Mat::substract_mean_normalize
        means = ", ".join(f"{255 * value:.6g}f" for value in entry.mean)
        norms = ", ".join(f"{1 / (255 * value):.9g}f" for value in entry.std)
        lines.append(f"{entry.name}.substract_mean_normalize: mean {{{means}}}, norm {{{norms}}}")
    lines += [f"{output.name}: {' x '.join(map(str, output.shape[1:]))}" for output in metadata.outputs]
    return "".join(f"# {line}\n" for line in lines)
