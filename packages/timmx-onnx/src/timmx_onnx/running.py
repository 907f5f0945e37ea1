"""Runs a graph that is not in a file yet in ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from timmx_onnx.runner import open_session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import onnxruntime


def graph_session(model: ir.Model, *, integer_kernels: bool = True) -> onnxruntime.InferenceSession:
    """A graph of any size in ONNX Runtime.

    Args:
        integer_kernels: see `open_session`.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "model.onnx")
        ir.save(model, path, external_data="weights")
        return open_session(path, integer_kernels=integer_kernels, spins=False)


def opened(model: ir.Model, *, integer_kernels: bool = True) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """A graph as a function from its input to its outputs.

    Args:
        integer_kernels: see `open_session`.
    """
    session = graph_session(model, integer_kernels=integer_kernels)
    entry = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {entry: inputs})
