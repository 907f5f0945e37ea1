"""Which operations of a graph compute in integers, and which stay float because integers would cost accuracy.

The quantizer's own default makes an integer of everything that it can. That costs a vision transformer all its
accuracy: the outliers of its residual stream, its norms and its softmax do not fit into 256 levels. So here:

* convolutions and matrix products with constant weights compute in integers;
* what only moves values (a reshape, a padding, a pooling by maximum) does where its input is an integer already;
* layer norms, softmax, GELU and products of two activations (attention) stay float;
* the small layers of squeeze-excite gates store 8-bit weights and compute in float;
* where that keeps less than 20 dB, so do the convolutions and matrix products that lose most by integers, each measured
  by itself: as few as it takes, a third of them at most;
* activation functions, products, averages and sums join the integers in this order, each kind as long as the whole
  stays within a decibel of what it is without.

All measured on some of the calibration inputs (`choose_plan`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx_litert.graph import Graph, Operation

LINEAR = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"))
# Not SPACE_TO_DEPTH, nor HARD_SWISH below: the quantizer has neither in 16 bits, and XNNPACK runs HARD_SWISH in floats
# alone, so that in 8 bits MobileNetV3 takes more than twice as long.
_MOVING = frozenset(
    "RESHAPE TRANSPOSE PAD MAX_POOL_2D CONCATENATION SLICE STRIDED_SLICE SPLIT PACK UNPACK GATHER RELU "
    "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR MIRROR_PAD".split()
)
_GROUPS = {
    "activation functions": frozenset(("LOGISTIC", "TANH")),
    "products": frozenset(("MUL",)),
    "averages": frozenset(("MEAN", "AVERAGE_POOL_2D", "SUM")),
    "sums": frozenset(("ADD", "SUB")),
}
_NORM = frozenset("MEAN RSQRT SQRT DIV MUL SUB ADD POW SQUARED_DIFFERENCE SQUARE RECIPROCAL".split())
LARGEST_LOSS_DB = 1.0
"""What the groups together may cost beside the plan without them."""
SOUGHT_DB = 20.0
"""What is worth leaving the integers for: below it, more than one answer in ten changes."""
_MOST_RELIEVED = 1 / 3
"""Of the convolutions and matrix products, how many may leave the integers."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What each operation does; one that is in neither set stays float.

    Attributes:
        integer: positions in `Graph.operations` of those that compute in integers.
        stored: of those whose weights are stored in 8 bits, and whose input and output are float.
        relieved: of `stored`, those that would compute in integers if these did not cost them so much.
        groups: the kinds of other operations that joined the integers.
        float_kinds: how many operations of each kind stay float although the quantizer could make integers of them.
    """

    integer: frozenset[int]
    stored: frozenset[int]
    relieved: frozenset[int] = frozenset()
    groups: tuple[str, ...] = ()
    float_kinds: dict[str, int] = field(default_factory=dict)


def make_plan(graph: Graph, groups: tuple[str, ...] = (), relieved: frozenset[int] = frozenset()) -> Plan:
    """The plan with these groups among the integers, and these operations of `LINEAR` kinds not."""
    joining = frozenset().union(*(_GROUPS[name] for name in groups))
    norms = _norms(graph)
    integer: set[int] = set()
    stored: set[int] = set()
    made: set[int] = set()  # tensors that come out of integer arithmetic
    for position, operation in enumerate(graph.operations):
        if operation.kind in LINEAR:
            if not _has_constant_weights(graph, operation):
                continue
            if position in relieved or _is_gate(graph, operation):
                stored.add(position)
                continue
        else:
            may = operation.kind in _MOVING or operation.kind in joining
            if not may or position in norms or not set(graph.activations(operation)) <= made:
                continue
        integer.add(position)
        made.update(operation.outputs)
    return Plan(
        integer=frozenset(integer),
        stored=frozenset(stored),
        relieved=relieved,
        groups=groups,
        float_kinds=_left(graph, integer | stored),
    )


def choose_plan(graph: Graph, decibels: Callable[[Plan], float], progress: Callable[[str], None]) -> Plan:
    """The plan with the most groups that loses no more than `LARGEST_LOSS_DB`.

    Args:
        decibels: the signal-to-noise ratio of the model quantized by a plan.
        progress: told what takes long.
    """
    best = make_plan(graph)
    ratio = decibels(best)
    if ratio < SOUGHT_DB:
        layers = sum(graph.operations[at].kind in LINEAR for at in best.integer)
        progress(f"Finding what integers cost each of {layers} layers")
        best, ratio = _relieve(graph, best, ratio, decibels)
        progress("Quantizing")
    floor = ratio - LARGEST_LOSS_DB
    for name in _GROUPS:
        wider = make_plan(graph, (*best.groups, name), best.relieved)
        if wider.integer == best.integer or decibels(wider) >= floor:
            best = wider
    return best


def _relieve(
    graph: Graph, whole: Plan, ratio: float, decibels: Callable[[Plan], float]
) -> tuple[Plan, float]:
    """The plan that leaves out those layers which by themselves lose most, and its ratio."""
    layers = frozenset(at for at in whole.integer if graph.operations[at].kind in LINEAR)
    alone = {at: decibels(make_plan(graph, relieved=layers - {at})) for at in sorted(layers)}
    worst_first = sorted(alone, key=alone.__getitem__)
    most = int(len(layers) * _MOST_RELIEVED)
    count, best = 0, whole
    while ratio < SOUGHT_DB and count < most:
        count = min(max(1, 2 * count), most)
        candidate = make_plan(graph, relieved=frozenset(worst_first[:count]))
        found = decibels(candidate)
        if found > ratio:
            best, ratio = candidate, found
    return best, ratio


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
