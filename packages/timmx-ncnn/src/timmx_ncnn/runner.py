"""Runs an ncnn network on the CPU, or on a GPU with Vulkan."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from timmx.plugin import (
    ArtifactError,
    ConfigurationError,
    Metadata,
    Precision,
    Runner,
    RuntimeDevice,
    TensorSpec,
)

from timmx_ncnn.network import check_kinds, compute, load, new_net, require_gpu
from timmx_ncnn.param_file import WEIGHTS_SUFFIX, read_layers, read_metadata
from timmx_ncnn.weights import stored_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from timmx.plugin import OpenSettings

    from timmx_ncnn.operations import Operations

_LAYOUTS = {2: "NC", 3: "NLC", 4: "NCHW"}


class NcnnRunner(Runner):
    """Runs a network that timmx wrote, one image at a time.

    A file in `fp32` is computed in float32, one in `fp16` in half precision where the device has it.

    Args:
        path: the `.param`, with its `.bin` next to it.
        settings: the device and the number of threads of the CPU.

    Raises:
        ArtifactError: the files are not of timmx, are damaged, or do not belong together.
        RuntimeUnavailable: this ncnn does not have a layer, or finds no GPU.
        ConfigurationError: in `run`, an input has another name or shape than the file takes.
    """

    def __init__(self, path: Path, settings: OpenSettings) -> None:
        metadata = Metadata.parse(path, read_metadata(path))
        weights = path.with_suffix(WEIGHTS_SUFFIX)
        self._path = path
        self._layers = read_layers(path)
        check_kinds(path, self._layers)
        stored_weights(self._layers, weights)
        vulkan = settings.runtime_device is RuntimeDevice.GPU
        if vulkan:
            require_gpu(path)
        self._half = metadata.precision == Precision.FP16
        self._net = new_net(half=self._half, threads=settings.threads, vulkan=vulkan)
        load(self._net, path, weights)
        entry = metadata.input
        self.inputs = (TensorSpec(name=entry.name, shape=(1, *entry.shape), dtype="float32", layout="NCHW"),)
        self.outputs = tuple(
            TensorSpec(
                name=output.name,
                shape=output.shape,
                dtype="float32",
                layout=_LAYOUTS.get(len(output.shape), ""),
            )
            for output in metadata.outputs
        )
        computed = {name for layer in self._layers for name in layer.outputs}
        if missing := sorted({spec.name for spec in (*self.inputs, *self.outputs)} - computed):
            raise ArtifactError(
                f"{path} is damaged: no layer computes {missing[0]}, which its metadata names",
                hint="export it again",
            )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = self._compute(feeds, [spec.name for spec in self.outputs])
        return {
            spec.name: array.reshape(spec.shape)  # type: ignore[arg-type]
            for spec, array in zip(self.outputs, arrays, strict=True)
        }

    @cached_property
    def intermediates(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(
            name for layer in self._layers if layer.kind not in ("Input", "Split") for name in layer.outputs
        )

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        return dict(zip(names, self._compute(feeds, names), strict=True))

    @cached_property
    def separate(self) -> Operations:
        from timmx_ncnn.operations import Operations

        return Operations(self._path, half=self._half)

    def close(self) -> None:
        self._net = None

    def _compute(self, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        (spec,) = self.inputs
        if list(feeds) != [spec.name]:
            raise ConfigurationError(
                f"the file takes {spec.name}, but got {', '.join(feeds) or 'nothing'}",
                hint=f"pass one array for {spec.name}",
            )
        array = feeds[spec.name]
        if array.shape != spec.shape:
            raise ConfigurationError(
                f"the file takes {spec.name} of shape {spec.shape}, but got shape {array.shape}",
                hint=f"pass an array of shape {spec.shape}; ncnn takes one image at a time",
            )
        try:
            return compute(self._net, {spec.name: array[0]}, names)
        except RuntimeError as exc:
            raise ArtifactError(f"ncnn failed to run {self._path}: {exc}", hint="export it again") from exc
