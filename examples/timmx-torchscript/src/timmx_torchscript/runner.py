"""A TorchScript file opened by `torch.jit.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timmx.plugin import ArtifactError, Device, Runner, RuntimeUnavailable, TensorSpec

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
        metadata = read_metadata(path)
        if not metadata:
            raise ArtifactError(
                f"{path} has no shapes: timmx did not write it", hint="export it again with timmx torchscript"
            )
        self._device = Device(metadata["format"]["device"])
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
        batch = metadata["batch"].get("size", "batch")
        size = metadata["input"]["size"]
        self.inputs = (TensorSpec(name="input", shape=(batch, *size), dtype="float32", layout="NCHW"),)
        self.outputs = tuple(
            TensorSpec(
                name=item["name"],
                shape=tuple(item["shape"]),
                dtype="float32",
                layout=_LAYOUTS.get(len(item["shape"]), ""),
            )
            for item in metadata["outputs"]
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = self._module(torch.from_numpy(feeds["input"]).to(self._device.torch_name))
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return {spec.name: output.cpu().numpy() for spec, output in zip(self.outputs, outputs, strict=True)}
