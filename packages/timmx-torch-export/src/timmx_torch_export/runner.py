"""Runs a `.pt2` file in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timmx.plugin import ArtifactError, Device, Metadata, Runner, RuntimeUnavailable, TensorSpec

from timmx_torch_export.archive import read_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from timmx.plugin import OpenSettings

_LAYOUTS = {4: "NCHW", 3: "NLC", 2: "NC"}


class Pt2Runner(Runner):
    """Runs a `.pt2` file with PyTorch, on the device that it was exported for.

    Raises:
        ArtifactError: the file is not a `.pt2`, or is damaged.
        ConfigurationError: it was exported for another device than `settings.device`.
        RuntimeUnavailable: it was exported for CUDA, and this machine has no CUDA device.
    """

    def __init__(self, path: Path, settings: OpenSettings) -> None:
        content = read_metadata(path)
        metadata = Metadata.parse(path, content) if content else None
        device = Device(metadata.format.get("device", "cpu")) if metadata else Device.CPU
        settings.require_device(device, path)
        if device is Device.CUDA and not torch.cuda.is_available():
            raise RuntimeUnavailable(
                f"{path.name} was exported with --device cuda, and this machine has no CUDA device",
                hint="export it again without --device, or run it on a machine with a CUDA device",
            )
        try:
            program = torch.export.load(path)
        except RuntimeError as exc:
            raise ArtifactError(
                f"torch.export.load cannot read {path}: {exc}", hint="export it again"
            ) from exc
        self._module = program.module()
        signature = program.graph_signature
        values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
        (user_input,) = signature.user_inputs
        self._device = values[user_input].device
        self.inputs = (_spec("input", values[user_input]),)
        names = [output.name for output in metadata.outputs] if metadata else []
        if len(names) != len(signature.user_outputs):
            names = [f"output_{index}" for index in range(len(signature.user_outputs))]
        self.outputs = tuple(
            _spec(name, values[node]) for name, node in zip(names, signature.user_outputs, strict=True)
        )
        self.intermediates = tuple(
            node.name
            for node in self._module.graph.nodes
            if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = self._module(torch.from_numpy(feeds["input"]).to(self._device))
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return {spec.name: output.cpu().numpy() for spec, output in zip(self.outputs, outputs, strict=True)}

    def run_intermediates(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        recorder = _Recorder(self._module, frozenset(names))
        with torch.no_grad():
            recorder.run(torch.from_numpy(feeds["input"]).to(self._device))
        return {name: recorder.values[name] for name in names}


class _Recorder(torch.fx.Interpreter):
    """Runs a graph node by node and keeps the results of the named nodes."""

    def __init__(self, module: torch.fx.GraphModule, names: frozenset[str]) -> None:
        super().__init__(module)
        self._names = names
        self.values: dict[str, np.ndarray] = {}

    def run_node(self, node: torch.fx.Node) -> Any:
        result = super().run_node(node)
        if node.name in self._names:
            if result.dtype is torch.bfloat16:  # numpy has no bfloat16
                result = result.float()
            self.values[node.name] = result.cpu().numpy().copy()  # a later node may overwrite it
        return result


def _spec(name: str, value: torch.Tensor) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else "batch" for size in value.shape)
    return TensorSpec(
        name=name,
        shape=shape,
        dtype=str(value.dtype).removeprefix("torch."),
        layout=_LAYOUTS.get(len(shape), ""),
    )
