"""From a lowered program to the bytes of a `.pte` file: delegation, memory planning, serialization."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from executorch.exir import EdgeProgramManager, ExecutorchBackendConfig, to_edge_transform_and_lower
from timmx.plugin import UnsupportedError, quick_decompositions

from timmx_executorch.options import Delegate
from timmx_executorch.pte_file import METADATA_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from executorch.exir import ExecutorchProgramManager
    from executorch.exir.backend.partitioner import Partitioner


def to_edge(program: torch.export.ExportedProgram, partitioners: list[Partitioner]) -> EdgeProgramManager:
    """Convert to ExecuTorch's edge dialect, and give the delegates what they support.

    Args:
        program: in operations that ExecuTorch has; changed.
        partitioners: of the delegate.

    Raises:
        UnsupportedError: ExecuTorch lacks an operation, or a delegate refuses one that it accepted before.
    """
    with quiet(), quick_decompositions():
        try:
            return to_edge_transform_and_lower(program, partitioner=partitioners)
        except (OSError, MemoryError):
            raise
        except Exception as exc:  # torch, ExecuTorch and its delegates raise many types for what they cannot lower
            raise _unsupported(exc) from exc


def finish(edge: EdgeProgramManager, metadata: str) -> ExecutorchProgramManager:
    """Plan the memory and serialize, with the metadata as a named blob."""
    edge._named_data_store.add_named_data(METADATA_NAME, metadata.encode())
    with quiet():
        try:
            return edge.to_executorch(ExecutorchBackendConfig())
        except (OSError, MemoryError):
            raise
        except Exception as exc:  # as above
            raise _unsupported(exc) from exc


def partitioners(delegate: Delegate) -> list[Partitioner]:
    """What chooses the operations of a delegate."""
    with quiet():
        if delegate is Delegate.XNNPACK:
            from timmx_executorch.partition import xnnpack_partitioner

            return [xnnpack_partitioner()]
    return []


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what ExecuTorch, its delegates and torch print by default."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _unsupported(exc: Exception) -> UnsupportedError:
    reason = " ".join(str(exc).split()) or type(exc).__name__
    return UnsupportedError(
        f"ExecuTorch cannot convert this model: {reason[:300].rstrip('.')}",
        hint="use timmx onnx or timmx torch-export, which support most models",
    )
