"""What `timmx inspect` shows of an ncnn network, without ncnn."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from timmx_ncnn.param_file import WEIGHTS_SUFFIX, read_layers, read_metadata
from timmx_ncnn.weights import stored_weights

if TYPE_CHECKING:
    from pathlib import Path

    from timmx_ncnn.layers import Layer


def inspect(path: Path) -> dict[str, Any]:
    """Layers by type, inputs and outputs; of files that timmx wrote also the number of parameters and their types.

    Raises:
        ArtifactError: the file is not of this format, is damaged, or its `.bin` is of another file.
    """
    layers = read_layers(path)
    kinds = Counter(layer.kind for layer in layers if layer.kind != "Input")
    facts: dict[str, Any] = {"operations": dict(sorted(kinds.items()))}
    if read_metadata(path):
        stored = stored_weights(layers, path.with_suffix(WEIGHTS_SUFFIX)).values()
        floats, halves = sum(item.floats for item in stored), sum(item.halves for item in stored)
        total = floats + halves
        shares = {"float16": halves / total, "float32": floats / total} if total else {}
        facts["parameters"] = total
        facts["weights"] = {name: round(share, 4) for name, share in shares.items() if share}
    taken = {name for layer in layers for name in layer.inputs}
    ends = [name for layer in layers for name in layer.outputs if name not in taken]
    facts["inputs"] = [
        {"name": layer.outputs[0], "shape": _shape(layer), "dtype": "float32"}
        for layer in layers
        if layer.kind == "Input"
    ]
    facts["outputs"] = [{"name": name, "shape": [], "dtype": "float32"} for name in ends]
    return facts


def _shape(layer: Layer) -> list[Any]:
    """The sizes that an `Input` states, which other tools leave out."""
    return [layer.parameters[key] for key in (2, 11, 1, 0) if key in layer.parameters]
