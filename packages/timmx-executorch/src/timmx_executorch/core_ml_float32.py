"""Keeps operations of Core ML's delegate in float32: marks them in a program, and finds them in the delegate's part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection

    import torch

_MARK = "float32"
"""In the entry of a node's metadata that torch keeps through every conversion."""
_CUSTOM = "custom"
_HANDLE = "debug_handle"
"""The entry that coremltools copies to all operations of the node."""


def keep_float32(program: torch.export.ExportedProgram, names: Collection[str]) -> None:
    """Mark nodes for `Float32Operations`."""
    for node in program.graph.nodes:
        if node.name in names:
            node.meta[_CUSTOM] = {**node.meta.get(_CUSTOM, {}), _MARK: True}


class Float32Operations:
    """The operations of marked nodes, as coremltools asks for them while it converts."""

    def __init__(self) -> None:
        self._handles: set[int] = set()

    def find(self, program: torch.export.ExportedProgram) -> None:
        """Number the nodes of a program in ExecuTorch's edge dialect, if any is marked."""
        marked = [bool(node.meta.get(_CUSTOM, {}).get(_MARK)) for node in program.graph.nodes]
        if any(marked):
            for number, node in enumerate(program.graph.nodes):
                node.meta[_HANDLE] = number
            self._handles.update(number for number, mark in enumerate(marked) if mark)

    def may_round(self, operation: Any) -> bool:
        """Whether a MIL operation may be float16."""
        from coremltools.converters.mil.mil.scope import ScopeSource

        return self._handles.isdisjoint(operation.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or [])
