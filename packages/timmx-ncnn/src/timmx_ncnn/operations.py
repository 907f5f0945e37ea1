"""Runs the layers of a network one by one, each as a network of its own."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from timmx.plugin import Operation

from timmx_ncnn.layers import Layer, split
from timmx_ncnn.network import compute, load, new_net
from timmx_ncnn.param_file import WEIGHTS_SUFFIX, read_layers
from timmx_ncnn.weights import stored_weights
from timmx_ncnn.write import to_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


class Operations:
    """The layers of a network.

    Args:
        path: the `.param`, with its `.bin` next to it.
        half: see `new_net`.

    Attributes:
        operations: in order of execution, without the layers that hold a constant or copy a value.
    """

    def __init__(self, path: Path, *, half: bool) -> None:
        self._half = half
        self._bin = path.with_suffix(WEIGHTS_SUFFIX)
        layers = read_layers(path)
        self._stored = stored_weights(layers, self._bin)
        sources: dict[str, str] = {}  # of a copy: what it copies
        self._data = {}
        self._layers = {}
        for layer in layers:
            inputs = tuple(sources.get(name, name) for name in layer.inputs)
            if layer.kind == "Split":
                sources |= dict.fromkeys(layer.outputs, inputs[0])
            elif layer.kind == "MemoryData":
                self._data[layer.outputs[0]] = layer
            elif layer.kind != "Input":
                self._layers[layer.name] = replace(layer, inputs=inputs)
        self.operations = tuple(
            Operation(
                layer.name,
                layer.kind,
                tuple(dict.fromkeys(name for name in layer.inputs if name not in self._data)),
                layer.outputs,
            )
            for layer in self._layers.values()
        )

    def run(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one layer; see `Runner.run_operation`."""
        layer = self._layers[name]
        constants = [self._data[value] for value in dict.fromkeys(layer.inputs) if value in self._data]
        entries = [Layer(kind="Input", name=value, outputs=(value,)) for value in inputs]
        part = split([*entries, *constants, layer])
        net = new_net(half=self._half, threads=1)
        with tempfile.TemporaryDirectory() as folder:
            param, weights = Path(folder, "part.param"), Path(folder, "part.bin")
            param.write_text(to_text(part), encoding="utf-8")
            weights.write_bytes(b"".join(self._weights(item.name) for item in (*constants, layer)))
            load(net, param, weights)
        feeds = {value: _as_mat(array) for value, array in inputs.items()}
        results = compute(net, feeds, layer.outputs)
        return dict(zip(layer.outputs, results, strict=True))

    def _weights(self, name: str) -> bytes:
        stored = self._stored.get(name)
        if stored is None:
            return b""
        with contextlib.closing(self._bin.open("rb")) as file:
            file.seek(stored.start)
            return file.read(stored.end - stored.start)


def _as_mat(array: np.ndarray) -> np.ndarray:
    """Without the batch, if the array has one: a `Mat` has none."""
    return array[0] if array.ndim > 3 and array.shape[0] == 1 else array
