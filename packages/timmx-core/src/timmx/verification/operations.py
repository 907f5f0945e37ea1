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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from timmx.contract import Runner
    from timmx.verification.exact import ExactValue

ROUNDING_DB = {Precision.FP32: 100.0, Precision.FP16: 46.0, Precision.BF16: 28.0}
"""The smallest ratio of one operation to its exact result that rounding explains, by precision."""

MARGIN_DB = 10.0
"""An operation is reported if its own error exceeds rounding by this much."""

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
    """

    name: str
    kind: str
    module: str = ""
    value: str = ""
    snr_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class OperationReport:
    """The result of `compare_operations`.

    Attributes:
        operations: all operations, in order.
        outputs_db: the worst output of the last operations against the model's, in dB.
        threshold_db: the smallest ratio that rounding explains.
    """

    operations: tuple[OperationFigures, ...]
    outputs_db: float
    threshold_db: float

    @property
    def worst_db(self) -> float:
        """The smallest ratio of an operation, or of an output."""
        ratios = (item.snr_db for item in self.operations if item.snr_db is not None)
        return min((*ratios, self.outputs_db))

    @property
    def exact(self) -> bool:
        """Whether every path from the input to the outputs consists of operations that are exact to rounding."""
        return self.outputs_db >= self.threshold_db and self.wrong is None

    @property
    def wrong(self) -> OperationFigures | None:
        """The first operation whose error exceeds rounding."""
        limit = self.threshold_db
        return next(
            (item for item in self.operations if item.snr_db is not None and item.snr_db < limit), None
        )


def own_db(exact: np.ndarray, result: np.ndarray) -> float:
    """The ratio of an operation's result to its exact one, at the worst index of any axis, in dB.

    An error in one weight of a convolution changes one channel. Rounding errors are relative to the terms of a sum,
    so a channel of small values counts like an average one.
    """
    exact = exact.astype(np.float64)
    error, energy = np.square(result.astype(np.float64) - exact), np.square(exact)
    if not np.isfinite(error).all():
        return -math.inf
    mean, worst = energy.mean(), error.mean()
    worst_ratio = worst / mean if mean else (math.inf if worst else 0.0)
    for axis in range(exact.ndim):
        if exact.shape[axis] < 2:
            continue
        others = tuple(other for other in range(exact.ndim) if other != axis)
        noise, signal = error.mean(axis=others), energy.mean(axis=others)
        reach = np.maximum(signal, mean)
        if mean:
            worst_ratio = max(worst_ratio, float((noise / reach).max()))
    return -10 * math.log10(worst_ratio) if worst_ratio > 0 else math.inf


class _Counterparts:
    """Finds the value of the model that an operation's result equals, in any order of axes."""

    def __init__(self, values: Sequence[ExactValue]) -> None:
        self._by_size: dict[int, list[tuple[float, ExactValue]]] = {}
        for value in values:
            self._by_size.setdefault(value.array.size, []).append((_magnitude(value.array), value))
        self._probes = np.random.default_rng(0)

    def find(
        self, result: np.ndarray, least_db: float, taken: set[str] | None = None
    ) -> tuple[ExactValue, np.ndarray, float] | None:
        """The best counterpart of at least `least_db`, its array in the result's shape, and the ratio.

        Args:
            taken: names of values that are left out.
        """
        magnitude = _magnitude(result)
        if not math.isfinite(magnitude):
            return None
        tolerance = 4 * 10 ** (-least_db / 20)
        best: tuple[ExactValue, np.ndarray, float] | None = None
        for other, value in self._by_size.get(result.size, ()):
            if abs(other - magnitude) > tolerance * max(other, magnitude):
                continue
            if taken and value.name in taken:
                continue
            for array in self._aligned(value.array, result, tolerance):
                ratio = own_db(array, result)
                if ratio >= least_db and (best is None or ratio > best[2]):
                    best = value, array, ratio
        return best

    def _aligned(self, exact: np.ndarray, result: np.ndarray, tolerance: float) -> Iterator[np.ndarray]:
        count = min(_PROBES, result.size)
        at = (
            self._probes.choice(result.size, count, replace=False)
            if result.size > count
            else np.arange(count)
        )
        probes = result.reshape(-1)[at].astype(np.float64)
        slim = exact.reshape([size for size in exact.shape if size > 1] or [1])
        orders = (
            itertools.permutations(range(slim.ndim)) if slim.ndim <= _MOST_AXES else [tuple(range(slim.ndim))]
        )
        scale = np.square(probes).sum()
        for order in orders:
            turned = slim.transpose(order)
            error = np.square(turned.flat[at].astype(np.float64) - probes).sum()
            if error <= (2 * tolerance) ** 2 * scale:
                yield turned.reshape(result.shape)


def compare_operations(
    runner: Runner,
    inputs: np.ndarray,
    values: Sequence[ExactValue],
    outputs: Mapping[str, np.ndarray],
    precision: Precision,
) -> OperationReport:
    """Run an artifact operation by operation on the model's values.

    Args:
        runner: it has `operations`.
        inputs: (N, C, H, W) float32, of a batch size that the artifact takes.
        values: of the model, from `ExactGraph`, for the same inputs.
        outputs: the model's outputs by name.
        precision: the artifact's precision.
    """
    threshold = ROUNDING_DB.get(precision, ROUNDING_DB[Precision.BF16])
    walk = _Walk(runner, values, threshold)
    figures = walk.run(inputs, near=False)
    ratio = walk.outputs_db(outputs)
    if ratio < threshold:
        figures = walk.run(inputs, near=True)
        ratio = walk.outputs_db(outputs)
    return OperationReport(operations=tuple(figures), outputs_db=ratio, threshold_db=threshold)


class _Walk:
    _NEAR_DB = 6.0

    def __init__(self, runner: Runner, values: Sequence[ExactValue], threshold_db: float) -> None:
        self._runner = runner
        self._operations = runner.operations
        self._counterparts = _Counterparts(values)
        self._threshold_db = threshold_db
        self._matched: set[str] = set()
        self._outputs: dict[str, np.ndarray] = {}
        self._last_use = {
            name: index
            for index, item in enumerate(self._operations)
            for name in (*item.outputs, *item.inputs)
        }

    def run(self, inputs: np.ndarray, *, near: bool) -> list[OperationFigures]:
        """Run all operations.

        Args:
            near: replace results with errors too, by the nearest value that no other operation computes.
        """
        names = {spec.name: spec for spec in self._runner.outputs}
        (entry,) = self._runner.inputs
        present = {entry.name: feed(entry, inputs)}
        figures = []
        for index, operation in enumerate(self._operations):
            feeds = {name: present[name] for name in operation.inputs}
            results = self._runner.run_operation(operation.name, feeds)
            item = OperationFigures(name=operation.name, kind=operation.kind)
            for name, result in results.items():
                counterpart = self._find(result, near)
                if counterpart is not None:
                    value, array, ratio = counterpart
                    if item.snr_db is None or ratio < item.snr_db:
                        item = OperationFigures(
                            name=operation.name,
                            kind=operation.kind,
                            module=value.module,
                            value=value.kind,
                            snr_db=ratio,
                        )
                    result = np.ascontiguousarray(array).astype(result.dtype)
                present[name] = result
                if name in names:
                    self._outputs[name] = fetch(names[name], results[name])
            figures.append(item)
            for name in {*operation.inputs, *operation.outputs}:
                if self._last_use[name] == index:
                    present.pop(name, None)
        return figures

    def outputs_db(self, outputs: Mapping[str, np.ndarray]) -> float:
        """The worst output of the last run."""
        return min(own_db(array, self._outputs[name]) for name, array in outputs.items())

    def _find(self, result: np.ndarray, near: bool) -> tuple[ExactValue, np.ndarray, float] | None:
        if not np.issubdtype(result.dtype, np.floating) or not result.size:
            return None
        counterpart = self._counterparts.find(result, self._threshold_db)
        if counterpart is not None:
            self._matched.add(counterpart[0].name)
        elif near:
            counterpart = self._counterparts.find(result, self._NEAR_DB, self._matched)
        return counterpart


def _magnitude(array: np.ndarray) -> float:
    return float(np.sqrt(np.square(array, dtype=np.float64).mean()))
