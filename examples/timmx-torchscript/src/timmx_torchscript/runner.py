"""A TorchScript file opened by `torch.jit.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timmx.plugin import ArtifactError, Device, Metadata, Runner, RuntimeUnavailable, TensorSpec

from timmx_torchscript.archive import read_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from timmx.plugin import OpenSettings

_LAYOUTS = {4: "NCHW", 3: "NLC", 2: "NC"}


class TorchScriptRunner(Runner):
    """Runs a TorchScript file with PyTorch, on the device that it was traced on.

    Raises:
        ArtifactError: the file is not TorchScript written by timmx, or is damaged.
        ConfigurationError: it was traced on another device than `settings.device`.
        RuntimeUnavailable: it was traced on CUDA, and there is none here.
    """

    def __init__(self, path: Path, settings: OpenSettings) -> None:
        metadata = Metadata.parse(path, read_metadata(path))
        self._device = Device(metadata.format["device"])
        settings.require_device(self._device, path)
        if self._device is Device.CUDA and not torch.cuda.is_available():
            raise RuntimeUnavailable(
                f"{path.name} was traced on CUDA, and there is no CUDA device here",
                hint="export it again with --device cpu",
            )
        try:
            self._module = torch.jit.load(path, map_location=self._device.torch_name)
        except RuntimeError as exc:
            raise ArtifactError(f"torch.jit.load cannot read {path}: {exc}", hint="export it again") from exc
        shape = (metadata.batch_size or "batch", *metadata.input.shape)
        self.inputs = (TensorSpec(name="input", shape=shape, dtype="float32", layout="NCHW"),)
        self.outputs = tuple(
            TensorSpec(
                name=output.name,
                shape=output.shape,
                dtype=output.dtype,
                layout=_LAYOUTS.get(len(output.shape), ""),
            )
            for output in metadata.outputs
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = self._module(torch.from_numpy(feeds["input"]).to(self._device.torch_name))
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return {spec.name: output.cpu().numpy() for spec, output in zip(self.outputs, outputs, strict=True)}
