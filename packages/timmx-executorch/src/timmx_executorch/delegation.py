"""Measures how much of a converted program its delegate computes."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from executorch.exir.delegate import executorch_call_delegate
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from executorch.exir import EdgeProgramManager

aten = torch.ops.aten

LEAST_SHARE = 0.95
"""With less of its multiply-adds in the delegate, a file is much slower than it could be."""
_NOT_COMPUTED = frozenset((operator.getitem, executorch_call_delegate))


@dataclass(kw_only=True)
class Delegation:
    """The operations of a program by what computes them.

    Attributes:
        partitions: calls of the delegate.
        delegated: operations that it computes.
        portable: operations that ExecuTorch's own kernels compute, by name.
        delegated_madds, portable_madds: multiply-adds of one run.
        heavy: the multiply-adds of portable operations that have any, by name.
    """

    partitions: int = 0
    delegated: int = 0
    portable: Counter[str] = field(default_factory=Counter)
    delegated_madds: int = 0
    portable_madds: int = 0
    heavy: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """The share of the multiply-adds in the delegate; 1 if there are none."""
        total = self.delegated_madds + self.portable_madds
        return self.delegated_madds / total if total else 1.0

    @property
    def facts(self) -> dict[str, Any]:
        """For the metadata."""
        return {
            "partitions": self.partitions,
            "delegated_operators": self.delegated,
            "portable_operators": dict(sorted(self.portable.items())),
            "delegated_share": round(self.share, 4),
        }


def measure(edge: EdgeProgramManager) -> Delegation:
    """Count the operations and multiply-adds of the method `forward`."""
    found = Delegation()
    module = edge.exported_program().graph_module
    for node in module.graph.nodes:
        if node.target is executorch_call_delegate:
            found.partitions += 1
            inner = getattr(module, node.args[0].target).original_module.graph_module
            for inner_node in inner.graph.nodes:
                if _computes(inner_node):
                    found.delegated += 1
                    found.delegated_madds += multiply_adds(inner_node)
        elif _computes(node):
            name = _name(node)
            found.portable[name] += 1
            if madds := multiply_adds(node):
                found.portable_madds += madds
                found.heavy[name] += madds
    return found


def _computes(node: torch.fx.Node) -> bool:
    return node.op == "call_function" and node.target not in _NOT_COMPUTED


def _overload(node: torch.fx.Node) -> Any:
    """The ATen operation of an edge operation."""
    return getattr(node.target, "_op", node.target)


def _name(node: torch.fx.Node) -> str:
    packet = getattr(_overload(node), "overloadpacket", None)
    return getattr(packet, "__name__", None) or str(node.target)


def multiply_adds(node: torch.fx.Node) -> int:
    """Of a convolution or matrix product, of the traced batch size; 0 for others."""
    packet = getattr(_overload(node), "overloadpacket", None)
    args, value = pytree.tree_map_only(
        torch.fx.Node, lambda source: _hinted(source.meta["val"]), (node.args, node.meta.get("val"))
    )
    if packet is aten.linear:
        return int(_hinted(value).numel() * args[1].shape[-1])
    count = flop_registry.get(packet)
    return 0 if count is None else int(count(*args, out_val=_hinted(value))) // 2


def _hinted(value: Any) -> Any:
    """A tensor without data that has the sizes of the trace in place of symbols."""
    if not isinstance(value, torch.Tensor):
        return value
    sizes = [size if isinstance(size, int) else int(size.node.hint) for size in value.shape]
    return torch.empty(sizes, dtype=value.dtype, device="meta")
