"""Runs a `.pte` in the ExecuTorch runtime."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch
from timmx.plugin import (
    ArtifactError,
    ConfigurationError,
    Runner,
    RuntimeUnavailable,
    TensorSpec,
    usable_cores,
)

from timmx_executorch.interface import METHOD, interface
from timmx_executorch.pte_file import read_metadata, reading, weights_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_DELEGATES = frozenset(("XnnpackBackend", "CoreMLBackend"))
"""Others of the build load libraries and code for devices, from data in the file."""


class ExecuTorchRunner(Runner):
    """Runs the method `forward` on the CPU.

    Args:
        threads: the number of threads; by default one per core that this process may use. The runtime has one pool of
            threads for all files of a process, so it has no effect while another file is open.

    Raises:
        ArtifactError: the file is not an ExecuTorch program, is damaged, or its weights are of another file; in `run`,
            the runtime fails.
        ConfigurationError: in `run`, an input has another name or shape than the file takes.
        RuntimeUnavailable: the runtime lacks its delegate or a kernel.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._path = path
        content = read_metadata(path)  # compares the second file
        with reading(path) as file:
            found = interface(path, file)
            backends = sorted({call.backend for call in found.plan.delegates})
            kernels = found.plan.operators
        self.inputs, self.outputs, self._most = found.inputs, found.outputs, found.batch_max
        if self._most is not None:
            self.batch_sizes = tuple(sorted({1, 2, self._most}))
        self._method = self._load(backends, kernels, weights_of(path, content), threads or usable_cores())

    def _load(self, backends: list[str], kernels: list[str], data: Path | None, threads: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "This API is experimental"
            from executorch.runtime import Runtime
        runtime = Runtime.get()
        missing = [
            name
            for name in backends
            if name not in _DELEGATES or not runtime.backend_registry.is_available(name)
        ]
        if missing:
            raise RuntimeUnavailable(
                f"{self._path} was made for {', '.join(missing)}, which timmx does not run here",
                hint="run it in an ExecuTorch runtime that has it, or export it with --delegate xnnpack",
            )
        if unknown := sorted(set(kernels) - runtime.operator_registry.operator_names):
            raise RuntimeUnavailable(
                f"{self._path} has operators for which this build of the ExecuTorch runtime has no kernel: "
                f"{', '.join(unknown)[:200]}",
                hint="run it in a runtime that has them, or export it again",
            )
        _use_threads(threads)
        try:
            self._program = runtime.load_program(self._path, data_path=data)
            method = self._program.load_method(METHOD)
        except RuntimeError as exc:
            raise ArtifactError(
                f"the ExecuTorch runtime cannot load {self._path}: {_one_line(exc)}", hint="export it again"
            ) from exc
        _opened.add(self)
        return method

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._method is None:
            raise ArtifactError(f"{self._path} is closed", hint="open it again")
        tensors = [self._checked(spec, feeds) for spec in self.inputs]
        try:
            outputs = self._method.execute(tensors)
        except RuntimeError as exc:
            raise ArtifactError(
                f"the ExecuTorch runtime failed to run {self._path}: {_one_line(exc)}",
                hint="export it again, or copy it again",
            ) from exc
        return {spec.name: output.numpy() for spec, output in zip(self.outputs, outputs, strict=True)}

    def _checked(self, spec: TensorSpec, feeds: Mapping[str, np.ndarray]) -> torch.Tensor:
        array = feeds.get(spec.name)
        if not isinstance(array, np.ndarray) or len(feeds) != len(self.inputs):
            names = ", ".join(entry.name for entry in self.inputs)
            raise ConfigurationError(
                f"the file takes {names}, but got {', '.join(feeds) or 'nothing'}",
                hint=f"pass an array for {names}",
            )
        if len(array.shape) != len(spec.shape) or any(
            size not in ("batch", got) for size, got in zip(spec.shape, array.shape, strict=True)
        ):
            raise ConfigurationError(
                f"the file takes {spec.name} of shape {spec.shape}, but got shape {array.shape}",
                hint=f"pass an array of shape {spec.shape}",
            )
        if self._most is not None and not 1 <= array.shape[0] <= self._most:
            raise ConfigurationError(
                f"the file takes batches of 1 to {self._most}, but got {array.shape[0]}",
                hint="pass smaller batches, or export it again with a larger --batch-max",
            )
        if str(array.dtype) != spec.dtype:
            raise ConfigurationError(
                f"the file takes {spec.name} of {spec.dtype}, but got {array.dtype}",
                hint=f"pass an array of {spec.dtype}",
            )
        # torch takes neither negative strides nor other byte orders, and warns of arrays that it must not write
        return torch.from_numpy(np.array(array, spec.dtype, order="C"))

    def close(self) -> None:
        self._method = self._program = None
        _opened.discard(self)


_opened: WeakSet[ExecuTorchRunner] = WeakSet()


def _use_threads(count: int) -> None:
    """Set the size of the process's pool of threads; loaded programs hold it, and crash if it is replaced (1.5)."""
    from executorch.extension.pybindings import portable_lib

    if not _opened and portable_lib._threadpool_get_thread_count() != count:
        portable_lib._unsafe_reset_threadpool(count)


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300].rstrip(".")
