"""Runs a `.pt2` file in PyTorch."""

from __future__ import annotations

import operator
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, cast

import torch
from timmx.plugin import (
    ArtifactError,
    Device,
    Metadata,
    Runner,
    RuntimeUnavailable,
    TensorSpec,
    reporter,
    shown,
)

import timmx_torch_export.hints  # noqa: F401 - makes torch.export.load faster
from timmx_torch_export.archive import open_archive, read_metadata
from timmx_torch_export.checks import check_arguments, is_kernel
from timmx_torch_export.clean import clean_file
from timmx_torch_export.operations import Operations
from timmx_torch_export.operators import is_region, is_size_function, is_tensor_operator
from timmx_torch_export.program import DamagedProgram, UnsafeProgram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from timmx.plugin import OpenSettings

_LAYOUTS = {4: "NCHW", 3: "NLC", 2: "NC"}


class Pt2Runner(Runner):
    """Runs a `.pt2` file with PyTorch, on the device that it was exported for.

    torch loads a clean copy of the file (`timmx_torch_export.clean`). A file that has other parts is loaded as it is if
    `settings.trust` says so.

    Raises:
        ArtifactError: the file is not a `.pt2`, is damaged, or has parts that can run code and is not trusted.
        ConfigurationError: it was exported for another device than `settings.device`.
        RuntimeUnavailable: it was exported for CUDA, and this machine has no CUDA device.
    """

    def __init__(self, path: Path, settings: OpenSettings) -> None:
        content = read_metadata(path)
        metadata = Metadata.parse(path, content) if content else None
        stated = metadata.format.get("device", "cpu") if metadata else "cpu"
        if stated not in list(Device):
            raise ArtifactError(
                f"the metadata of {path} is damaged: format.device is {shown(str(stated)[:100])}",
                hint="export it again",
            )
        device = Device(stated)
        settings.require_device(device, path)
        if device is Device.CUDA and not torch.cuda.is_available():
            raise RuntimeUnavailable(
                f"{path.name} was exported with --device cuda, and this machine has no CUDA device",
                hint="export it again without --device, or run it on a machine with a CUDA device",
            )
        program, self._module = _load(path, settings.trust)
        signature = program.graph_signature
        values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
        if len(signature.user_inputs) != 1:
            raise ArtifactError(
                f"{path} takes {len(signature.user_inputs)} inputs, and timmx runs programs with one",
                hint="load it with torch.export.load",
            )
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

    @cached_property
    def separate(self) -> Operations:
        return Operations(self._module, "input", [spec.name for spec in self.outputs])


def _load(path: Path, trust: bool) -> tuple[torch.export.ExportedProgram, torch.fx.GraphModule]:
    """The program of a file, and the module that runs it."""
    try:
        with open_archive(path) as archive:
            file = clean_file(archive)
            program, module = _load_with_torch(path, cast("IO[bytes]", file))
            _require_known_targets(program.graph_module)
            check_arguments(module)
            file.require_checksums()
    except DamagedProgram as exc:
        raise ArtifactError(f"{path} is damaged: {exc}", hint="export it again") from exc
    except UnsafeProgram as exc:
        if not trust:
            raise ArtifactError(
                f"{path} is not loaded, because it can run code, or has parts that timmx does not know: {exc}",
                hint="if you trust the file, use --trust (in Python: trust=True)",
            ) from exc
        reporter().warn(f"{path} is trusted: loading it can run code that it contains ({exc})")
        return _load_with_torch(path, path)
    return program, module


def _load_with_torch(
    path: Path, source: Path | IO[bytes]
) -> tuple[torch.export.ExportedProgram, torch.fx.GraphModule]:
    try:
        program = torch.export.load(source)
        module = program.module()
        assert isinstance(module, torch.fx.GraphModule), "ExportedProgram.module makes one"
        return program, module
    except OSError:
        raise
    except Exception as exc:  # for a graph that does not fit together, torch raises any exception
        text = " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
        raise ArtifactError(f"torch.export.load cannot read {path}: {text}", hint="export it again") from exc


def _require_known_targets(module: torch.nn.Module) -> None:
    """Check what torch has made of the names of operators: it looks them up with `getattr`.

    Raises:
        UnsafeProgram: one of them is something else than an operator.
    """
    for part in module.modules():
        if not isinstance(part, torch.fx.GraphModule):
            continue
        for node in part.graph.nodes:
            target = node.target
            if node.op != "call_function" or target is operator.getitem:
                continue
            if isinstance(target, torch._ops.OpOverload):
                known = is_tensor_operator(f"torch.ops.{target}") and is_kernel(target)
            elif isinstance(target, torch._ops.HigherOrderOperator):
                known = is_region(f"torch.ops.higher_order.{target}")
            else:
                known = is_size_function(
                    f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', '')}"
                )
            if not known:
                raise UnsafeProgram(f"it calls {target}")


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
