"""A TorchScript file opened by `torch.jit.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timmx.plugin import ArtifactError, Metadata, Runner, RuntimeUnavailable, TensorSpec

from timmx_torchscript.archive import read_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

_LAYOUTS = {4: "NCHW", 3: "NLC", 2: "NC"}


class TorchScriptRunner(Runner):
    """Runs a TorchScript file with PyTorch, on the device that it was traced on.

    Raises:
        ArtifactError: the file is not TorchScript written by timmx, or is damaged.
        RuntimeUnavailable: it was traced on CUDA, and there is none here.
    """

    def __init__(self, path: Path) -> None:
        metadata = Metadata.parse(path, read_metadata(path))
        self._device = metadata.format["device"]
        if self._device == "cuda" and not torch.cuda.is_available():
            raise RuntimeUnavailable(
                f"{path.name} was traced on CUDA, and there is no CUDA device here",
                hint="export it again with --device cpu",
            )
        try:
            self._module = torch.jit.load(path, map_location=self._device)
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
            outputs = self._module(torch.from_numpy(feeds["input"]).to(self._device))
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return {spec.name: output.cpu().numpy() for spec, output in zip(self.outputs, outputs, strict=True)}
