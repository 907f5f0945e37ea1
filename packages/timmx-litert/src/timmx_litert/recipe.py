"""Which operations of a graph compute in integers, and which stay float because integers would cost accuracy.

The quantizer's own default makes an integer of everything that it can. That costs a vision transformer all its
accuracy: the outliers of its residual stream, its norms and its softmax do not fit into 256 levels. So here:

* convolutions and matrix products with constant weights compute in integers;
* what only moves values (a reshape, a padding, a pooling by maximum) does where its input is an integer already;
* layer norms, softmax, GELU and products of two activations (attention) stay float;
* the small layers of squeeze-excite gates store 8-bit weights and compute in float;
* activation functions, products, averages and sums join the integers in this order, each kind as long as the whole
  stays within a decibel of what it is without; measured on some of the calibration inputs (`choose`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx_litert.graph import Graph, Operation

LINEAR = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"))
_MOVING = frozenset(
    "RESHAPE TRANSPOSE PAD MAX_POOL_2D CONCATENATION SLICE STRIDED_SLICE SPLIT PACK UNPACK GATHER RELU SPACE_TO_DEPTH "
    "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR MIRROR_PAD".split()
)
_GROUPS = {
    "activation functions": frozenset(("LOGISTIC", "TANH", "HARD_SWISH")),
    "products": frozenset(("MUL",)),
    "averages": frozenset(("MEAN", "AVERAGE_POOL_2D", "SUM")),
    "sums": frozenset(("ADD", "SUB")),
}
_NORM = frozenset("MEAN RSQRT SQRT DIV MUL SUB ADD POW SQUARED_DIFFERENCE SQUARE RECIPROCAL".split())
LARGEST_LOSS_DB = 1.0
"""What the groups together may cost beside the plan without them."""


@dataclass(frozen=True)
class Plan:
    """What each operation does; one that is in neither set stays float.

    Attributes:
        integer: positions in `Graph.operations` of those that compute in integers.
        stored: of those whose weights are stored in 8 bits and that compute in float.
        groups: the kinds of other operations that joined the integers.
        float_kinds: how many operations of each kind stay float although the quantizer could make integers of them.
    """

    integer: frozenset[int]
    stored: frozenset[int]
    groups: tuple[str, ...] = ()
    float_kinds: dict[str, int] = field(default_factory=dict)


def plan(graph: Graph, groups: tuple[str, ...] = ()) -> Plan:
    """The recipe with these groups among the integers."""
    joining = frozenset().union(*(_GROUPS[name] for name in groups))
    norms = _norms(graph)
    integer: set[int] = set()
    stored: set[int] = set()
    made: set[int] = set()  # tensors that come out of integer arithmetic
    for position, operation in enumerate(graph.operations):
        if operation.kind in LINEAR:
            if not _has_constant_weights(graph, operation):
                continue
            if _is_gate(graph, operation):
                stored.add(position)
                continue
        else:
            may = operation.kind in _MOVING or operation.kind in joining
            if not may or position in norms or not set(graph.activations(operation)) <= made:
                continue
        integer.add(position)
        made.update(operation.outputs)
    return Plan(frozenset(integer), frozenset(stored), groups, _left(graph, integer | stored))


def choose(graph: Graph, decibels: Callable[[Plan], float]) -> Plan:
    """The plan with the most groups that loses no more than `LARGEST_LOSS_DB`.

    Args:
        decibels: the signal-to-noise ratio of the model quantized by a plan.
    """
    best = plan(graph)
    floor = decibels(best) - LARGEST_LOSS_DB
    for name in _GROUPS:
        wider = plan(graph, (*best.groups, name))
        if wider.integer == best.integer or decibels(wider) >= floor:
            best = wider
    return best


def _has_constant_weights(graph: Graph, operation: Operation) -> bool:
    return len(operation.inputs) > 1 and len(graph.activations(operation)) == 1


def _is_gate(graph: Graph, operation: Operation) -> bool:
    """Whether an operation has one position an image, and what comes of it scales a map of more positions."""
    waiting, seen = [operation], set()
    while waiting:
        current = waiting.pop()
        for index in current.outputs:
            if index in seen or _positions(graph.tensors[index].shape) != 1:
                continue
            seen.add(index)
            for consumer in graph.consumers.get(index, []):
                if consumer.kind in ("MUL", "ADD") and any(
                    _positions(graph.tensors[output].shape) > 1 for output in consumer.outputs
                ):
                    return True
                waiting.append(consumer)
    return False


def _positions(shape: tuple[int, ...]) -> int:
    """Rows times columns of a map (N, H, W, C); 0 for anything else."""
    return shape[1] * shape[2] if len(shape) == 4 else 0


def _norms(graph: Graph) -> set[int]:
    """The operations that a layer norm was taken apart into: a mean, the squared distance from it, and what follows."""
    centred = [operation for operation in graph.operations if operation.kind == "SQUARED_DIFFERENCE"]
    statistics = {index for operation in centred for index in operation.inputs}
    marked: set[int] = set()
    found: set[int] = set()
    for position, operation in enumerate(graph.operations):
        if operation.kind not in _NORM:
            continue
        activations = set(graph.activations(operation))
        is_mean = operation.kind == "MEAN" and bool(set(operation.outputs) & statistics)
        follows = operation.kind == "SQUARED_DIFFERENCE" or bool(activations & marked)
        if is_mean or (follows and (operation.kind != "ADD" or activations <= marked)):
            found.add(position)
            marked.update(operation.outputs)
    return found


def _left(graph: Graph, chosen: set[int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for position, operation in enumerate(graph.operations):
        floating = any(graph.tensors[index].floating for index in operation.outputs)
        if position not in chosen and floating:
            counts[operation.kind] = counts.get(operation.kind, 0) + 1
    return dict(sorted(counts.items()))
