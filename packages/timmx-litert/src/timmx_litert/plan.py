"""Chooses which operations of a graph compute in integers, and which stay float because integers cost accuracy.

By default the quantizer converts everything that it can. That costs a vision transformer all its accuracy: the
outliers of its residual stream, its norms and its softmax do not fit into 256 levels. So here:

* convolutions and matrix products with constant weights compute in integers;
* operations that only move values (reshape, padding, max pooling) do so if their input is already an integer;
* layer norms, softmax, GELU and products of two activations (attention) stay float;
* the small layers of squeeze-excite gates store 8-bit weights and compute in float;
* the convolutions and matrix products that lose most in integers keep float weights too, as few as the core's planner
  finds necessary;
* activation functions, products, averages and sums are added to the integers in this order, each kind if the whole
  model loses at most one decibel by it.

The last one is measured with the file on some of the calibration inputs (`choose_plan`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx_litert.graph import Graph, Operation

LINEAR = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"))
# Not SPACE_TO_DEPTH, nor HARD_SWISH below: the quantizer has neither in 16 bits, and XNNPACK runs HARD_SWISH only in
# floats, so that in 8 bits MobileNetV3 takes more than twice as long.
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
MAX_LOSS_DB = 1.0
"""What all groups together may cost compared with the plan without them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How each operation computes; an operation that is in neither set stays float.

    Attributes:
        integer: positions in `Graph.operations` of operations that compute in integers.
        weight_only: positions of operations with 8-bit weights and float inputs and outputs.
        exempt: positions of convolutions and matrix products that stay float for their accuracy.
        groups: the names of the groups of other operations that compute in integers.
        float_kinds: the number of operations of each kind that stay float.
    """

    integer: frozenset[int]
    weight_only: frozenset[int]
    exempt: frozenset[int] = frozenset()
    groups: tuple[str, ...] = ()
    float_kinds: dict[str, int] = field(default_factory=dict)


def make_plan(graph: Graph, groups: tuple[str, ...] = (), exempt: frozenset[int] = frozenset()) -> Plan:
    """The plan with these groups in integers, and without these operations of `LINEAR` kinds."""
    group_kinds = frozenset().union(*(_GROUPS[name] for name in groups))
    norms = _norms(graph)
    integer: set[int] = set()
    weight_only: set[int] = set()
    integer_tensors: set[int] = set()  # results of integer arithmetic
    for position, operation in enumerate(graph.operations):
        if operation.kind in LINEAR:
            if not _has_constant_weights(graph, operation):
                continue
            if position in exempt:
                continue
            if _is_gate(graph, operation):
                weight_only.add(position)
                continue
        else:
            if operation.kind not in _MOVING | group_kinds or position in norms:
                continue
            if not set(graph.activations(operation)) <= integer_tensors:
                continue
        integer.add(position)
        integer_tensors.update(operation.outputs)
    return Plan(
        integer=frozenset(integer),
        weight_only=frozenset(weight_only),
        exempt=exempt,
        groups=groups,
        float_kinds=_count_float_kinds(graph, integer | weight_only),
    )


def linear_positions(graph: Graph) -> list[int]:
    """The positions of the convolutions and matrix products that can compute in integers."""
    return sorted(at for at in make_plan(graph).integer if graph.operations[at].kind in LINEAR)


def choose_plan(
    graph: Graph, exempt: frozenset[int], measure_snr_db: Callable[[Plan], float], target_db: float
) -> Plan:
    """The plan with the most groups that loses at most `MAX_LOSS_DB` by them.

    Args:
        exempt: positions of operations of `LINEAR` kinds that stay in float.
        measure_snr_db: returns the signal-to-noise ratio of the model quantized by a plan.
        target_db: the ratio below which no group may bring the file.
    """
    best = make_plan(graph, exempt=exempt)
    ratio = measure_snr_db(best)
    floor = max(ratio - MAX_LOSS_DB, min(ratio, target_db))
    for name in _GROUPS:
        wider = make_plan(graph, (*best.groups, name), best.exempt)
        if wider.integer == best.integer or measure_snr_db(wider) >= floor:
            best = wider
    return best


def _has_constant_weights(graph: Graph, operation: Operation) -> bool:
    return len(operation.inputs) > 1 and len(graph.activations(operation)) == 1


def _is_gate(graph: Graph, operation: Operation) -> bool:
    """Whether an operation has one position per image, and its result scales a map of more positions."""
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
    """The operations that layer norms were decomposed into: a mean, the squared distance from it, and what follows."""
    centred = [operation for operation in graph.operations if operation.kind == "SQUARED_DIFFERENCE"]
    statistics = {index for operation in centred for index in operation.inputs}
    marked: set[int] = set()
    norms: set[int] = set()
    for position, operation in enumerate(graph.operations):
        if operation.kind not in _NORM:
            continue
        activations = set(graph.activations(operation))
        is_mean = operation.kind == "MEAN" and bool(set(operation.outputs) & statistics)
        follows = operation.kind == "SQUARED_DIFFERENCE" or bool(activations & marked)
        if is_mean or (follows and (operation.kind != "ADD" or activations <= marked)):
            norms.add(position)
            marked.update(operation.outputs)
    return norms


def _count_float_kinds(graph: Graph, quantized: set[int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for position, operation in enumerate(graph.operations):
        floating = any(graph.tensors[index].floating for index in operation.outputs)
        if position not in quantized and floating:
            counts[operation.kind] = counts.get(operation.kind, 0) + 1
    return dict(sorted(counts.items()))
