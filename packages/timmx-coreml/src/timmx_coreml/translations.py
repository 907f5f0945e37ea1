"""Translations that coremltools 9.0 lacks for ExportedPrograms and that torch code cannot replace efficiently."""

from __future__ import annotations

import copy
from typing import Any


def register() -> None:
    """Register the translations with coremltools for the whole process, without replacing its own."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import (
        _TORCH_OPS_REGISTRY,
        register_torch_op,
    )

    if _TORCH_OPS_REGISTRY.get_func("aten::lstm.input") is None:
        register_torch_op(timmx_lstm, torch_alias=["lstm.input"])


def timmx_lstm(context: Any, node: Any) -> None:
    """Translate `aten::lstm.input` to one MIL `lstm` per layer (sequencer2d); torch code would unroll the steps.

    coremltools 9.0 has the translation under TorchScript's name of the operation only, and for nodes with three
    outputs, where an ExportedProgram has one tuple.
    """
    from coremltools.converters.mil.frontend.torch.ops import lstm

    lstm_node = copy.copy(node)
    lstm_node.outputs = [f"{node.name}_{part}" for part in ("output", "hidden", "cell")]
    lstm(context, lstm_node)
    context.add(tuple(context[name] for name in lstm_node.outputs), torch_name=node.name)
