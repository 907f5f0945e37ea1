"""Translations that coremltools 9.0 lacks in its ExportedProgram front end and that torch code cannot replace well."""

from __future__ import annotations

import copy
from typing import Any


def register() -> None:
    """Make them known to coremltools, for the whole process. Nothing that it has by itself is changed."""
    from coremltools.converters.mil.frontend.torch.torch_op_registry import (
        _TORCH_OPS_REGISTRY,
        register_torch_op,
    )

    if _TORCH_OPS_REGISTRY.get_func("aten::lstm.input") is None:
        register_torch_op(timmx_lstm, torch_alias=["lstm.input"])


def timmx_lstm(context: Any, node: Any) -> None:
    """`aten::lstm.input` as one MIL `lstm` a layer (sequencer2d); torch code would unroll it step by step.

    coremltools 9.0 has the translation, but under TorchScript's name of the operation, and for nodes with three
    outputs, where an ExportedProgram has one tuple.
    """
    from coremltools.converters.mil.frontend.torch.ops import lstm

    three = copy.copy(node)
    three.outputs = [f"{node.name}_{part}" for part in ("output", "hidden", "cell")]
    lstm(context, three)
    context.add(tuple(context[name] for name in three.outputs), torch_name=node.name)
