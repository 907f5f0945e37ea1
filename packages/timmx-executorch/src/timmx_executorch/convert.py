"""From a lowered program to the bytes of a `.pte` file: delegation, memory planning, serialization."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from executorch.exir import EdgeProgramManager, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir._serialize._serialize import serialize_for_executorch
from executorch.exir.error import ExportError, InternalError
from timmx.plugin import UnsupportedError, quick_decompositions
from torch._export.verifier import SpecViolationError
from torch.export.graph_signature import InputKind

from timmx_executorch.options import Delegate, Mode
from timmx_executorch.pte_file import METADATA_NAME, WEIGHTS_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from executorch.exir._serialize._cord import Cord
    from executorch.exir.backend.partitioner import Partitioner

WEIGHTS_TAG = "weights"
"""ExecuTorch's name of the second file while it is made."""

_REFUSALS = (ExportError, InternalError, SpecViolationError, RuntimeError, AssertionError, ValueError)
"""What ExecuTorch, its delegates and torch raise for what they cannot convert (executorch 1.5)."""
_ADVICE = "There are a few things to try"
"""What follows the reason in messages about operations: options of ExecuTorch's own functions."""


def to_edge(program: torch.export.ExportedProgram, partitioners: list[Partitioner]) -> EdgeProgramManager:
    """Convert to ExecuTorch's edge dialect, and give the delegates what they support.

    Args:
        program: in operations that ExecuTorch has; changed.
        partitioners: of the delegate.

    Raises:
        UnsupportedError: ExecuTorch lacks an operation, or a delegate refuses one that it accepted before.
    """
    with quiet(), quick_decompositions(), _shared_weights(), _half_weights(), _refusals(), _any_batch():
        return to_edge_transform_and_lower(program, partitioner=partitioners)


@dataclass(frozen=True)
class Written:
    """The files of a program, in memory.

    Attributes:
        program: the `.pte` file.
        weights: the `.ptd` file; None if the weights are in the `.pte`.
    """

    program: Cord
    weights: Cord | None


def finish(
    edge: EdgeProgramManager, describe: Callable[[dict[str, str]], str], *, external_weights: bool
) -> Written:
    """Plan the memory and serialize, with the metadata as a named blob.

    Args:
        describe: returns the metadata for the SHA-256 of the companions by suffix.
        external_weights: serialize the weights apart, those of operations of `tag_weights`.
    """
    store = edge._named_data_store
    if not external_weights:
        store.add_named_data(METADATA_NAME, describe({}).encode())
    config = ExecutorchBackendConfig(
        external_constants=(lambda _: WEIGHTS_TAG) if external_weights else False
    )
    with quiet():
        with _refusals(), _any_batch():
            program = edge.to_executorch(config)
        weights = program._tensor_data.get(WEIGHTS_TAG)
        if weights is None:
            if external_weights:
                store.add_named_data(METADATA_NAME, describe({}).encode())
            else:
                return Written(program._pte_data, None)
            companions = {}
        else:
            companions = {WEIGHTS_SUFFIX: hashlib.sha256(bytes(weights)).hexdigest()}
            store.add_named_data(METADATA_NAME, describe(companions).encode())
        # once more, since the metadata states the hash of the weights
        again, _ = serialize_for_executorch(
            program._emitter_output, config, program._data_serializer, store.get_named_data_store_output()
        )
        return Written(again, weights)


def tag_weights(program: torch.export.ExportedProgram) -> None:
    """Mark the weights, for delegates to leave them out of their data."""
    inputs = {
        spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is not InputKind.USER_INPUT
    }
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in inputs:
            node.meta.setdefault("custom", {})["delegate_constant_tag"] = WEIGHTS_TAG


@contextlib.contextmanager
def partitioners(delegate: Delegate, mode: Mode) -> Iterator[list[Partitioner]]:
    """What chooses the operations of a delegate, for `to_edge`."""
    if delegate is Delegate.XNNPACK:
        with quiet():
            from timmx_executorch.partition import xnnpack_partitioner

        yield [xnnpack_partitioner()]
    elif delegate is Delegate.COREML:
        with quiet():
            from timmx_executorch.core_ml import core_ml_partitioner

        with core_ml_partitioner(half=mode is Mode.FP16) as partitioner:
            yield [partitioner]
    else:
        yield []


@contextlib.contextmanager
def _any_batch() -> Iterator[None]:
    """Derive the shapes of convolutions without restricting their batch.

    To choose between oneDNN and NNPACK, torch 2.14 asks whether the batch is less than 16, which becomes a bound.
    """
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
        yield


@contextlib.contextmanager
def _shared_weights() -> Iterator[None]:
    """Compile for XNNPACK without a copy of all weights, which executorch 1.5 makes.

    Its passes put new tensors in the place of weights; they write into none.
    """
    from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend

    def copy_program(program: torch.export.ExportedProgram, _: object) -> torch.export.ExportedProgram:
        weights = (*program.state_dict.values(), *program.constants.values())
        return copy.deepcopy(program, {id(weight): weight for weight in weights})

    XnnpackBackend.copy_exported_program_for_preprocess = copy_program
    try:
        yield
    finally:
        del XnnpackBackend.copy_exported_program_for_preprocess


@contextlib.contextmanager
def _half_weights() -> Iterator[None]:
    """Store the weights of half-precision convolutions in half precision, which XNNPACK reads.

    executorch 1.5 stores them in float32: a float16 file of a convolutional network would be as large as a float32 one.
    """
    from executorch.backends.xnnpack.operators import node_visitor

    visitor = node_visitor._node_visitor_dict["aten.convolution.default"]

    def define_tensor(self: Any, *arguments: Any, **options: Any) -> None:
        node_visitor.NodeVisitor.define_tensor(self, *arguments, **options | {"force_fp32": False})

    visitor.define_tensor = define_tensor
    try:
        yield
    finally:
        del visitor.define_tensor


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


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Report what ExecuTorch cannot convert, by its first cause; other errors are internal ones.

    Raises:
        UnsupportedError: ExecuTorch, a delegate or torch refuses the program.
    """
    try:
        yield
    except Exception as exc:
        if (
            not isinstance(exc, _REFUSALS) and type(exc) is not Exception
        ):  # a pass that fails raises only that
            raise
        cause: BaseException = exc
        while type(cause) is Exception and cause.__cause__ is not None:
            cause = cause.__cause__
        reason = " ".join(str(cause).partition(_ADVICE)[0].split()).rstrip('".') or type(cause).__name__
        raise UnsupportedError(
            f"ExecuTorch cannot convert this model: {reason[:300]}",
            hint="use timmx onnx or timmx torch-export, which support most models",
        ) from exc
