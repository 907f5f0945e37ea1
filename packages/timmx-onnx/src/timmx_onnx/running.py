"""Runs a graph that is not in a file yet in ONNX Runtime."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from timmx.plugin import run_batches

from timmx_onnx.runner import OnnxRunner, open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import onnxruntime
    from timmx.plugin import Runner


@contextlib.contextmanager
def _saved(model: ir.Model) -> Iterator[Path]:
    """A graph of any size as a file that is deleted afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "model.onnx")
        ir.save(model, path, external_data="weights")
        yield path


def run_model(
    model: ir.Model, inputs: np.ndarray, open_file: Callable[[Path], Runner] = OnnxRunner
) -> list[np.ndarray]:
    """The outputs of a graph for inputs, (N, C, H, W), in the order of its outputs.

    Args:
        open_file: opens its file in a runtime.
    """
    with _saved(model) as path, open_file(path) as runner:
        batch = runner.inputs[0].shape[0]
        names = [spec.name for spec in runner.outputs]
        outputs = run_batches(runner, inputs, names, batch if isinstance(batch, int) else 1)
    return [outputs[name] for name in names]


def graph_session(model: ir.Model, *, integer_kernels: bool = True) -> onnxruntime.InferenceSession:
    """A graph in ONNX Runtime.

    Args:
        integer_kernels: see `open_session`.
    """
    with _saved(model) as path:
        return open_session(path, integer_kernels=integer_kernels, spins=False)


def opened(model: ir.Model, *, integer_kernels: bool = True) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """A graph as a function from its input, of its batch size, to its outputs.

    Args:
        integer_kernels: see `open_session`.
    """
    session = graph_session(model, integer_kernels=integer_kernels)
    entry = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {entry: inputs})
