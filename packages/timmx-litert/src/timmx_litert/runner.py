"""Runs a `.tflite` in the LiteRT runtime."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from timmx.plugin import (
    ArtifactError,
    ConfigurationError,
    Metadata,
    Quantization,
    Runner,
    RuntimeUnavailable,
    TensorSpec,
    usable_cores,
)

from timmx_litert.model_file import (
    custom_operations,
    read_metadata,
    require_own_weights,
    require_possible_tensors,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from timmx_litert.operations import Operations

_LAYOUTS = {2: "NC", 3: "NLC", 4: "NCHW"}


class LiteRTRunner(Runner):
    """Runs a `.tflite` on the CPU, with XNNPACK.

    Args:
        threads: the number of threads for XNNPACK; by default one per core that this process may use.

    Raises:
        ArtifactError: the file is not a LiteRT model, is damaged, or holds several signatures; in `run`, the runtime
            fails.
        ConfigurationError: in `run`, an input has another name or shape than the file takes.
        RuntimeUnavailable: the file has operations for which this runtime has no kernel.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._path = path
        count = threads or usable_cores()
        require_own_weights(path)
        require_possible_tensors(path)
        content = read_metadata(path)
        layout = Metadata.parse(path, content).input.layout if content else ""
        try:
            self._interpreter: Any = Interpreter(model_path=str(path), num_threads=count)
            self._interpreter.allocate_tensors()  # checks more of the file
            self._signature: Any = self._interpreter.get_signature_runner()
            self.inputs = tuple(
                _spec(name, details, layout) for name, details in self._signature.get_input_details().items()
            )
            self.outputs = tuple(
                _spec(name, details, "") for name, details in self._signature.get_output_details().items()
            )
        except (RuntimeError, ValueError, TypeError, LookupError, OverflowError) as exc:
            reason = _one_line(exc)
            if "Flex delegate" in reason:
                raise RuntimeUnavailable(
                    f"{path} has operations of TensorFlow, which this LiteRT runtime does not have: "
                    f"{', '.join(custom_operations(path))[:200]}",
                    hint="convert it without TensorFlow's operations",
                ) from exc
            if "unresolved" in reason or "custom op" in reason.lower():
                raise RuntimeUnavailable(
                    f"{path} has operations for which this LiteRT runtime has no kernel: {reason}",
                    hint="run it in a LiteRT runtime that has these operations",
                ) from exc
            raise ArtifactError(
                f"the LiteRT runtime cannot load {path}: {reason}", hint="export it again"
            ) from exc

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.inputs]
        if sorted(feeds) != sorted(names):
            raise ConfigurationError(
                f"the file takes {', '.join(names)}, but got {', '.join(feeds) or 'nothing'}",
                hint=f"pass one array for each of: {', '.join(names)}",
            )
        for spec in self.inputs:  # the runtime would resize the model, and succeed or fail at random
            shape = feeds[spec.name].shape
            if len(shape) != len(spec.shape) or any(
                size not in ("batch", got) for size, got in zip(spec.shape, shape, strict=True)
            ):
                raise ConfigurationError(
                    f"the file takes {spec.name} of shape {spec.shape}, but got shape {tuple(shape)}",
                    hint=f"pass an array of shape {spec.shape}",
                )
        try:
            return dict(self._signature(**feeds))
        except (RuntimeError, ValueError) as exc:
            raise ArtifactError(
                f"the LiteRT runtime failed to run {self._path}: {_one_line(exc)}",
                hint="export it again, or copy it again",
            ) from exc

    @cached_property
    def separate(self) -> Operations:
        from timmx_litert.operations import Operations

        return Operations(self._path)

    def close(self) -> None:
        self._signature = self._interpreter = None


def open_interpreter(content: bytes, *, keep_all: bool = False) -> Interpreter:
    """Load a model from memory, ready to run; with `keep_all` every tensor can be read after a run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keeping all tensors "is intended for debugging purposes only"
        interpreter = Interpreter(
            model_content=content, num_threads=usable_cores(), experimental_preserve_all_tensors=keep_all
        )
    interpreter.allocate_tensors()
    return interpreter


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300].rstrip(".")


def _spec(name: str, details: Mapping[str, Any], layout: str) -> TensorSpec:
    shape = tuple(map(int, details["shape_signature"]))
    scale, zero_point = details["quantization"]
    return TensorSpec(
        name=name,
        shape=tuple("batch" if size < 0 else size for size in shape),
        dtype=np.dtype(details["dtype"]).name,
        layout=layout or _LAYOUTS.get(len(shape), ""),
        quantization=Quantization(float(scale), int(zero_point)) if scale else None,
    )
