"""Compares the operations of an artifact with those of the model one by one, each fed the model's values.

A network can amplify rounding so much that two correct programs give different outputs. Each operation separately
does not: fed the same values, it must give the same result to rounding. So the artifact is run operation by operation.
A result that equals a value of the model to rounding is replaced by that value before later operations read it. What
has no counterpart in the model (a part of a decomposed or fused operation) is judged with the next result that has.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from timmx.contract import Precision
from timmx.inputs import feed, fetch
from timmx.verification.exact import own_db

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from timmx.contract import Runner
    from timmx.verification.exact import ExactValue

MARGIN_DB = 10.0
"""An operation is wrong if its own error exceeds rounding by more than this."""

_ROUNDING_DB = {Precision.FP32: 115.0, Precision.FP16: 56.0, Precision.BF16: 38.0}
"""What one operation's rounding leaves; where PyTorch's own float32 has less, that counts. The lowest figures of
convnext_atto, levit_128s and haloregnetz_b in fp32 are 111 in LiteRT's reference kernels, which add products one by
one, 117 in ONNX Runtime, PyTorch and the evaluators of timmx-coreml."""

_OTHER_ROUNDING_DB = 25.0
"""Of precisions with 8 bits and fewer."""

_NEAR_DB = {Precision.FP32: 20.0}
_OTHER_NEAR_DB = 10.0
"""The least ratio of a wrong result to the value that it should be; parts of operations may be similar to others."""

_PROBES = 512
"""Elements that are compared before whole arrays are."""

_MOST_AXES = 6


@dataclass(frozen=True, kw_only=True)
class OperationFigures:
    """An operation of an artifact, fed the model's values.

    Attributes:
        name: its name in the artifact.
        kind: its type in the artifact.
        module: path of the module in the model whose value it computes; empty if it has no counterpart.
        value: what it computes in the model, such as `conv2d`; empty if it has no counterpart.
        snr_db: its result against the exact one, in dB; None if it has no counterpart.
        floor_db: the smallest ratio that rounding explains.
    """

    name: str
    kind: str
    module: str = ""
    value: str = ""
    snr_db: float | None = None
    floor_db: float = 0.0

    @property
    def wrong(self) -> bool:
        """Whether its error exceeds rounding."""
        return self.snr_db is not None and self.snr_db < self.floor_db


@dataclass(frozen=True, kw_only=True)
class OperationReport:
    """The result of `compare_operations`.

    Attributes:
        operations: all operations, in order.
        outputs: the figures of the artifact's outputs.
    """

    operations: tuple[OperationFigures, ...]
    outputs: tuple[OperationFigures, ...]

    @property
    def worst_db(self) -> float:
        """The smallest ratio of an operation, or of an output."""
        return min(item.snr_db for item in (*self.operations, *self.outputs) if item.snr_db is not None)

    @property
    def exact(self) -> bool:
        """Whether every path from the input to the outputs consists of operations that are exact to rounding."""
        return self.wrong is None

    @property
    def wrong(self) -> OperationFigures | None:
        """The first operation, or else an output, whose error exceeds rounding."""
        return next((item for item in (*self.operations, *self.outputs) if item.wrong), None)

    def merge(self, other: OperationReport) -> OperationReport:
        """The worst figures of two runs of one artifact."""

        def merged(
            pairs: Iterator[tuple[OperationFigures, OperationFigures]],
        ) -> tuple[OperationFigures, ...]:
            return tuple(min(pair, key=_excess) for pair in pairs)

        return OperationReport(
            operations=merged(zip(self.operations, other.operations, strict=True)),
            outputs=merged(zip(self.outputs, other.outputs, strict=True)),
        )


def compare_operations(
    runner: Runner,
    inputs: np.ndarray,
    values: Sequence[ExactValue],
    outputs: Mapping[str, ExactValue],
    precision: Precision,
    *,
    near: bool = False,
) -> OperationReport:
    """Run an artifact operation by operation on the model's values.

    Args:
        runner: it has `operations`.
        inputs: (N, C, H, W) float32, of a batch size that the artifact takes.
        values: of the model, from `ExactGraph`, for the same inputs.
        outputs: the model's outputs by name.
        precision: the artifact's precision.
        near: compare every operation that has a similar counterpart, even if all are exact.
    """
    walk = _Walk(runner, values, precision)
    report = walk.run(inputs, outputs, near=near)
    if not report.exact and not near:  # which operation is it?
        report = walk.run(inputs, outputs, near=True)
    return report


class _Counterparts:
    """Finds the value of the model that an operation's result equals, in any order of axes."""

    def __init__(self, values: Sequence[ExactValue], precision: Precision) -> None:
        self._rounding_db = _ROUNDING_DB.get(precision, _OTHER_ROUNDING_DB)
        self._near_db = _NEAR_DB.get(precision, _OTHER_NEAR_DB)
        self._precision = precision
        self._by_size: dict[int, list[tuple[float, ExactValue]]] = {}
        for value in values:
            self._by_size.setdefault(value.array.size, []).append((_magnitude(value.array), value))
        self._probes = np.random.default_rng(0)

    def floor_db(self, value: ExactValue) -> float:
        """The smallest ratio to this value that rounding explains."""
        own = value.rounding_db if self._precision is Precision.FP32 else math.inf
        return min(self._rounding_db, own) - MARGIN_DB

    def find(
        self, result: np.ndarray, taken: set[int] | None = None
    ) -> tuple[ExactValue, np.ndarray, float] | None:
        """The best counterpart, its array in the result's shape, and the ratio.

        Args:
            taken: if given, the counterpart of a wrong result is looked for, and may not have one of these addresses.
        """
        magnitude = _magnitude(result)
        if not math.isfinite(magnitude):
            return None
        best: tuple[ExactValue, np.ndarray, float] | None = None
        for other, value in self._by_size.get(result.size, ()):
            if taken is not None and _address(value) in taken:
                continue
            least_db = self.floor_db(value) if taken is None else self._near_db
            tolerance = 4 * 10 ** (-least_db / 20)
            if abs(other - magnitude) > tolerance * max(other, magnitude):
                continue
            for array in self._aligned(value.array, result, tolerance):
                ratio = own_db(array, result)
                if ratio >= least_db and (best is None or ratio > best[2]):
                    best = value, array, ratio
        return best

    def _aligned(self, exact: np.ndarray, result: np.ndarray, tolerance: float) -> Iterator[np.ndarray]:
        """The exact array in those orders of its axes that are similar to the result, in the result's shape."""
        if result.size > _PROBES:
            at = self._probes.choice(result.size, _PROBES, shuffle=False, replace=False)
        else:
            at = np.arange(result.size)
        probes = result.reshape(-1)[at].astype(np.float64)
        slim = exact.reshape([size for size in exact.shape if size > 1] or [1])
        axes = tuple(range(slim.ndim))
        scale = np.square(probes).sum()
        for order in itertools.permutations(axes) if slim.ndim <= _MOST_AXES else [axes]:
            turned = slim.transpose(order)
            error = np.square(turned.flat[at].astype(np.float64) - probes).sum()
            if error <= (4 * tolerance) ** 2 * scale:
                yield turned.reshape(result.shape)


class _Walk:
    def __init__(self, runner: Runner, values: Sequence[ExactValue], precision: Precision) -> None:
        self._runner = runner
        self._operations = runner.operations
        self._counterparts = _Counterparts(values, precision)
        self._matched: set[int] = set()
        self._last_use = {
            name: index
            for index, item in enumerate(self._operations)
            for name in (*item.outputs, *item.inputs)
        }

    def run(self, inputs: np.ndarray, outputs: Mapping[str, ExactValue], *, near: bool) -> OperationReport:
        """Run all operations.

        Args:
            near: replace wrong results too, by the nearest value that no other operation computes.
        """
        specs = {spec.name: spec for spec in self._runner.outputs}
        (entry,) = self._runner.inputs
        present = {entry.name: feed(entry, inputs)}
        figures, of_outputs = [], []
        for index, operation in enumerate(self._operations):
            feeds = {name: present[name] for name in operation.inputs}
            results = self._runner.run_operation(operation.name, feeds)
            item = OperationFigures(name=operation.name, kind=operation.kind)
            for name, result in results.items():
                counterpart = self._find(result, near)
                if counterpart is not None:
                    value, array, ratio = counterpart
                    item = min(item, self._figures(operation.name, operation.kind, value, ratio), key=_excess)
                    present[name] = np.ascontiguousarray(array).astype(result.dtype)
                else:
                    present[name] = result
                if name in outputs:
                    ratio = own_db(outputs[name].array, fetch(specs[name], result))
                    of_outputs.append(self._figures(name, "output", outputs[name], ratio))
            figures.append(item)
            for name in {*operation.inputs, *operation.outputs}:
                if self._last_use[name] == index:
                    present.pop(name, None)
        return OperationReport(operations=tuple(figures), outputs=tuple(of_outputs))

    def _figures(self, name: str, kind: str, value: ExactValue, ratio: float) -> OperationFigures:
        return OperationFigures(
            name=name,
            kind=kind,
            module=value.module,
            value=value.kind,
            snr_db=ratio,
            floor_db=self._counterparts.floor_db(value),
        )

    def _find(self, result: np.ndarray, near: bool) -> tuple[ExactValue, np.ndarray, float] | None:
        if not np.issubdtype(result.dtype, np.floating) or not result.size:
            return None
        counterpart = self._counterparts.find(result)
        if counterpart is not None:
            self._matched.add(_address(counterpart[0]))
        elif near:
            counterpart = self._counterparts.find(result, self._matched)
        return counterpart


def _excess(item: OperationFigures) -> float:
    """Sorts figures by how far they are above rounding; those without a counterpart last."""
    return math.inf if item.snr_db is None else item.snr_db - item.floor_db


def _address(value: ExactValue) -> int:
    """Where its array begins in memory: views of a value have the same."""
    start: int = value.array.__array_interface__["data"][0]
    return start


def _magnitude(array: np.ndarray) -> float:
    return float(np.sqrt(np.square(array, dtype=np.float64).mean()))
