"""Chooses the layers that compute in integers by what each of them costs at the model's output (docs/quantization.md).

The noise of layers is simulated in torch on calibration inputs, so that the choice is the same for all formats with the
same arithmetic. What a backend builds by it is then measured, and the choice corrected if it was wrong.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from timmx.base import SignalToNoise, reporter
from timmx.contract import Figures, LayerState, QuantizationPlan
from timmx.errors import UnsupportedError
from timmx.quantization.simulation import IntegerSimulation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    import torch

    from timmx.contract import IntegerScheme, QuantizableLayer, WeightKey, Wish
    from timmx.inputs import CalibrationInputs

Built = TypeVar("Built")

_MAX_SHARE = 1 / 3
"""The largest share of the layers that stays in float for a wish's target; for its floor, all may."""
_CHEAP_SHARE = 1 / 10
"""The largest share of the multiply-adds that stays in float for the ratio that a wish prefers."""
_STORED_DB = 30.0
"""The least ratio of all layers that only store their weights in 8 bits, so that integers decide the accuracy."""
_MOST_INPUTS, _LEAST_INPUTS = 32, 8
_CALIBRATION_PASSES = 3
"""What measuring each layer may cost, in runs of the model over all calibration inputs."""
_FEWEST_KEPT = 4
"""How many layers stay in float at least if the first corrections do not meet a drop; then twice as many, and so on."""
_MOST_RETURNS = 4
"""How many layers are tried in integers again, the largest first."""
_RETURN_DB = 1.0
"""What each of these may cost: at 24 dB, 2 dB less cost a trained mobilenetv3_small_050 0.3 points of accuracy."""


class Planner:
    """Implements `timmx.contract.QuantizationPlanner`.

    Args:
        program: the captured model, float32.
        calibration: its inputs are read several times.
        scheme: the arithmetic of an integer layer.
        classes: returns the correct class of each calibration input, or None if they are unknown; called if a drop is
            measured. It raises a ConfigurationError if a drop cannot be measured.

    Attributes:
        layers: all layers that can be chosen, in order of execution.
        origin: of the calibration inputs.
    """

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        calibration: CalibrationInputs,
        scheme: IntegerScheme,
        classes: Callable[[], np.ndarray | None],
    ) -> None:
        self._simulation = IntegerSimulation(program, scheme)
        self._calibration = calibration
        self._simulation.observe(lambda: calibration.batches(self._simulation.batch))
        self.layers: tuple[QuantizableLayer, ...] = self._simulation.layers
        self.origin = calibration.origin
        self._truth = functools.cache(classes)
        self._size, count = self._budget()
        self._inputs = list(self._batches(calibration.some(count)))
        self._exact = [self._simulation.outputs(batch) for batch in self._inputs]
        self._exact_classes: np.ndarray | None = None
        self._predictions: dict[tuple[frozenset[str], frozenset[str], bool], Figures] = {}
        self._noise: dict[str, float] | None = None

    @property
    def drop_of(self) -> str:
        """What a drop is of: `accuracy`, or `agreement` with the model in float.

        Raises:
            ConfigurationError: a drop cannot be measured with this model and these inputs.
        """
        return "agreement" if self._truth() is None else "accuracy"

    def match(self, weights: Sequence[WeightKey]) -> list[str | None]:
        """See `QuantizationPlanner.match`."""
        by_key: dict[WeightKey, list[str]] = {}
        for layer in self.layers:
            by_key.setdefault(layer.weight, []).append(layer.name)
        found: list[str | None] = []
        for key in weights:
            names = by_key.get(key, [])
            found.append(names.pop(0) if len(names) > 1 else names[0] if names else None)
        matched = set(found)
        left: dict[int, list[str]] = {}
        for layer in self.layers:
            if layer.name not in matched:
                left.setdefault(layer.weight.size, []).append(layer.name)
        for size, names in left.items():
            places = [at for at, key in enumerate(weights) if found[at] is None and key.size == size]
            if len(places) == len(names):
                for at, name in zip(places, names, strict=True):
                    found[at] = name
        return found

    def choose(
        self,
        candidates: Collection[str],
        wish: Wish,
        build: Callable[[QuantizationPlan], tuple[Built, Callable[[np.ndarray], Sequence[np.ndarray]]]],
        storable: Collection[str] = (),
    ) -> tuple[QuantizationPlan, Built, Figures]:
        """See `QuantizationPlanner.choose`."""
        drop = wish.max_drop is not None
        plan = self._plan(candidates, wish, self._stored(frozenset(storable) - set(candidates)))
        reporter().step("Quantizing")
        built, run = build(plan)
        measured = self._figures(run, drop=drop)
        most = len(plan.kept)

        def corrections() -> Iterator[QuantizationPlan]:
            for correct in (self._one_more, self._stricter):
                corrected = None if self._satisfied(measured, plan) else correct(plan, measured)
                if corrected is not None:
                    yield corrected
            while drop and not self._satisfied(measured, plan):
                count = max(2 * most, _FEWEST_KEPT)
                if count >= len(plan.candidates):
                    return
                yield self._with(plan, frozenset(self._noisiest_first(plan.candidates)[:count]))

        for corrected in corrections():
            reporter().step("Quantizing with more layers in float")
            most = max(most, len(corrected.kept))
            other, run = build(corrected)
            other_measured = self._figures(run, drop=drop)
            if _better(other_measured, measured, wish):
                plan, built, measured = corrected, other, other_measured
        if drop and not wish.met_by(measured):
            integers = len(plan.candidates) - len(plan.kept)
            raise UnsupportedError(
                f"--max-drop {wish.max_drop:g} cannot be met: the best file loses {measured.drop:.2f} points of "
                f"{self.drop_of} on {self.origin}, with {integers} of {len(self.layers)} layers in integers",
                hint="use a larger --max-drop, a --mode with 8-bit weights only, or another --calibration-method",
            )
        return plan, built, measured

    def predict(
        self, integer: frozenset[str], stored: frozenset[str] = frozenset(), *, drop: bool = False
    ) -> Figures:
        """Figures of the model with these layers in integers, and others with the weights of integers, simulated.

        The drop is of all calibration inputs.
        """
        key = (integer, stored, drop)
        if key not in self._predictions:
            self._predictions[key] = self._figures(
                lambda batch: self._simulation.outputs(batch, integer, stored), drop=drop
            )
        return self._predictions[key]

    def facts(
        self, plan: QuantizationPlan, measured: Figures, states: Mapping[str, LayerState]
    ) -> dict[str, Any]:
        """A plan as an entry of the metadata (docs/metadata.md).

        Args:
            states: how each layer computes in the file; what is missing is float.
        """
        of = {layer.name: states.get(layer.name, LayerState.FLOAT) for layer in self.layers}
        total = sum(layer.multiply_adds for layer in self.layers)
        in_integers = sum(
            layer.multiply_adds for layer in self.layers if of[layer.name] is LayerState.INTEGER
        )
        facts: dict[str, Any] = {
            "layers": {str(state): list(of.values()).count(state) for state in LayerState},
            "integer_share": round(in_integers / total, 4) if total else 0.0,
            "kept_for_accuracy": [name for name in plan.candidates if name in plan.kept],
            "predicted_db": _rounded(plan.predicted.snr_db),
            "measured_db": _rounded(measured.snr_db),
        }
        if plan.wish.max_drop is not None:
            facts |= {
                "max_drop": plan.wish.max_drop,
                "drop_of": self.drop_of,
                "predicted_drop": _rounded(plan.predicted.drop),
                "measured_drop": _rounded(measured.drop),
            }
        return facts

    def _plan(self, candidates: Collection[str], wish: Wish, stored: frozenset[str]) -> QuantizationPlan:
        """The plan with the fewest layers in float that meets a wish; the closest to it if none does."""
        ordered = tuple(layer.name for layer in self.layers if layer.name in set(candidates))

        def of(kept: Sequence[str]) -> QuantizationPlan:
            figures = self.predict(frozenset(ordered) - set(kept), stored, drop=wish.max_drop is not None)
            return QuantizationPlan(
                candidates=ordered, kept=frozenset(kept), stored=stored, predicted=figures, wish=wish
            )

        def meets(plan: QuantizationPlan) -> bool:
            return wish.met_by(plan.predicted)

        def at_least(ratio_db: float) -> Callable[[QuantizationPlan], bool]:
            return lambda plan: plan.predicted.snr_db >= ratio_db

        def noisiest(share: float) -> list[str]:
            return self._noisiest_first(ordered)[: int(len(ordered) * share)]

        if wish.max_drop is None:
            preferred, wanted = at_least(max(wish.preferred_db, wish.target_db)), at_least(wish.target_db)
            plan = self._smallest(lambda: self._cheapest_first(ordered), of, preferred)
            if preferred(plan) and meets(plan):
                return self._without_needless(plan, preferred)
            plan = self._smallest(lambda: noisiest(_MAX_SHARE), of, wanted)
            if meets(plan):
                return self._without_needless(plan, wanted)
        return self._without_needless(self._smallest(lambda: noisiest(1), of, meets), meets)

    def _satisfied(self, measured: Figures, plan: QuantizationPlan) -> bool:
        wish = plan.wish
        met = wish.met_by(measured) if wish.max_drop is not None else measured.snr_db >= wish.target_db
        return met or len(plan.kept) == len(plan.candidates)

    def _one_more(self, plan: QuantizationPlan, _measured: Figures) -> QuantizationPlan:
        """The plan that keeps the noisiest layer left, in which the error of the prediction is most likely."""
        wish = plan.wish
        noisiest = next(name for name in self._noisiest_first(plan.candidates) if name not in plan.kept)
        return self._without_needless(
            self._with(plan, plan.kept | {noisiest}),
            lambda other: (
                wish.met_by(other.predicted)
                and (wish.max_drop is not None or other.predicted.snr_db >= wish.target_db)
            ),
            needed=noisiest,
        )

    def _noisiest_first(self, candidates: Sequence[str]) -> list[str]:
        return sorted(candidates, key=self._noise_of_each().__getitem__, reverse=True)

    def _cheapest_first(self, candidates: Sequence[str]) -> list[str]:
        """The candidates with the most noise per multiply-add, as long as few multiply-adds stay in float."""
        noise = self._noise_of_each()
        costs = {layer.name: layer.multiply_adds for layer in self.layers}
        budget = _CHEAP_SHARE * sum(costs.values()) - sum(
            costs[name] for name in costs.keys() - set(candidates)
        )
        chosen = []
        for name in sorted(candidates, key=lambda name: noise[name] / max(costs[name], 1), reverse=True):
            if costs[name] <= budget:
                chosen.append(name)
                budget -= costs[name]
        return chosen

    def _stricter(self, plan: QuantizationPlan, measured: Figures) -> QuantizationPlan | None:
        """The plan for a wish that is stricter by as much as the prediction was wrong; None if it is the same."""
        wish = plan.wish
        if wish.max_drop is not None:
            missed = (measured.drop or 0.0) - (plan.predicted.drop or 0.0)
            stricter = replace(wish, max_drop=max(wish.max_drop - missed, 0.0))
        else:
            missed = plan.predicted.snr_db - measured.snr_db
            stricter = replace(wish, floor_db=wish.floor_db + missed, target_db=wish.target_db + missed)
        corrected = self._plan(plan.candidates, stricter, plan.stored)
        return self._with(plan, corrected.kept) if len(corrected.kept) > len(plan.kept) else None

    def _with(self, plan: QuantizationPlan, kept: frozenset[str]) -> QuantizationPlan:
        """A correction of a plan."""
        figures = self.predict(
            frozenset(plan.candidates) - kept, plan.stored, drop=plan.wish.max_drop is not None
        )
        return replace(plan, kept=kept, predicted=figures)

    def _without_needless(
        self,
        plan: QuantizationPlan,
        meets: Callable[[QuantizationPlan], bool],
        needed: str = "",
    ) -> QuantizationPlan:
        """The plan without those of its largest kept layers that it does not need: noise of layers is not independent.

        Args:
            needed: a layer that is kept in any case.
        """
        if not meets(plan):
            return plan
        sizes = {layer.name: layer.multiply_adds for layer in self.layers}
        largest_first = sorted(plan.kept - {needed}, key=lambda name: (-sizes[name], name))
        for name in largest_first[:_MOST_RETURNS]:
            other = self._with(plan, plan.kept - {name})
            costs_db = plan.predicted.snr_db - other.predicted.snr_db
            plan = other if meets(other) and not costs_db > _RETURN_DB else plan
        return plan

    def _smallest(
        self,
        order: Callable[[], Sequence[str]],
        of: Callable[[Sequence[str]], QuantizationPlan],
        meets: Callable[[QuantizationPlan], bool],
    ) -> QuantizationPlan:
        """The plan that keeps as few of the first layers of an order as are enough; the best one tried if none are."""
        plan = best = of(())
        if meets(plan) or not (first := order()):
            return plan
        too_few, count = 0, 1
        while not meets(plan := of(first[:count])):
            best = max(best, plan, key=lambda tried: (-(tried.predicted.drop or 0.0), tried.predicted.snr_db))
            if count == len(first):
                return best
            too_few, count = count, min(2 * count, len(first))
        enough = count
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            tried = of(first[:middle])
            if meets(tried):
                plan, enough = tried, middle
            else:
                too_few = middle
        return plan

    def _noise_of_each(self) -> dict[str, float]:
        """The noise of each layer alone in integers, relative to the signal; of groups of layers, in large models."""
        if self._noise is None:
            reporter().step(f"Measuring the quantization loss of each of {len(self.layers)} layers")
            if self._size > 1:
                reporter().detail(
                    f"Measured by groups of {self._size} layers: one by one they would take longer than "
                    f"{_CALIBRATION_PASSES} runs over {self.origin}."
                )
            self._noise = self._noise_of([layer.name for layer in self.layers])
        return self._noise

    def _noise_of(self, names: Sequence[str], *, stored: bool = False) -> dict[str, float]:
        """The noise of each of these layers alone in integers, or with only its weights in integers."""
        groups = [tuple(names[start : start + self._size]) for start in range(0, len(names), self._size)]
        ratios = [[SignalToNoise() for _ in self._exact[0]] for _ in groups]
        for batch in self._inputs:
            exact, each = self._simulation.outputs_of_each(batch, groups, stored=stored)
            for ratio, outputs in zip(ratios, each, strict=True):
                for item, *pair in zip(ratio, exact, outputs, strict=True):
                    item.update(*pair)
        return {
            name: max(_relative_noise(item) for item in ratio)
            for ratio, group in zip(ratios, groups, strict=True)
            for name in group
        }

    def _stored(self, names: frozenset[str]) -> frozenset[str]:
        """Those of these layers whose weights in 8 bits together cost little; all others keep float weights."""
        if not names or self.predict(frozenset(), names).snr_db >= _STORED_DB:
            return names
        reporter().step("Measuring the quantization loss of weights")
        noise = self._noise_of([layer.name for layer in self.layers if layer.name in names], stored=True)
        quietest_first = sorted(noise, key=noise.__getitem__)
        limit = 10 ** (-_STORED_DB / 10)
        total = itertools.accumulate(noise[name] for name in quietest_first)
        return frozenset(
            name for name, together in zip(quietest_first, total, strict=True) if together <= limit
        )

    def _budget(self) -> tuple[int, int]:
        """The number of layers that are measured together, and the number of inputs they are measured on.

        By multiply-adds and not by time, with which a file would depend on the machine.
        """
        passes = _CALIBRATION_PASSES * len(self._calibration)
        total = sum(layer.multiply_adds for layer in self.layers) or 1
        costs, left = [], total
        for layer in self.layers:
            costs.append(left / total)
            left -= layer.multiply_adds
        least = min(_LEAST_INPUTS, len(self._calibration))
        size = 1
        while least * (1 + sum(costs[::size])) > passes and size < len(costs):
            size += 1
        affordable = int(passes / (1 + sum(costs[::size])))
        return size, max(least, min(_MOST_INPUTS, affordable, len(self._calibration)))

    def _batches(self, inputs: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        size = self._simulation.batch
        for start in range(0, len(inputs), size):
            yield np.concatenate([inputs[at % len(inputs)] for at in range(start, start + size)])

    def _figures(self, run: Callable[[np.ndarray], Sequence[np.ndarray]], *, drop: bool) -> Figures:
        ratios = [SignalToNoise() for _ in self._exact[0]]
        for batch, exact in zip(self._inputs, self._exact, strict=True):
            for ratio, *pair in zip(ratios, exact, run(batch), strict=True):
                ratio.update(*pair)
        snr_db = min(ratio.energy_snr_db if ratio.vacuous else ratio.snr_db for ratio in ratios)
        return Figures(snr_db, self._drop(run) if drop else None)

    def _drop(self, run: Callable[[np.ndarray], Sequence[np.ndarray]]) -> float:
        truth = self._truth()  # raises before the long runs
        if self._exact_classes is None:
            self._exact_classes = self._classes(self._simulation.outputs)
        exact, found = self._exact_classes, self._classes(run)
        if truth is None:
            return 100 * float(np.mean(exact != found))
        return 100 * float(np.mean(exact == truth) - np.mean(found == truth))

    def _classes(self, run: Callable[[np.ndarray], Sequence[np.ndarray]]) -> np.ndarray:
        batches = self._calibration.batches(self._simulation.batch)
        found = np.concatenate([np.argmax(run(batch)[0], axis=1) for batch in batches])
        return found[: len(self._calibration)]


def _better(one: Figures, other: Figures, wish: Wish) -> bool:
    if wish.max_drop is None:
        return one.snr_db > other.snr_db
    return (one.drop or 0.0, -one.snr_db) < (other.drop or 0.0, -other.snr_db)


def _relative_noise(ratio: SignalToNoise) -> float:
    signal = ratio.energy if ratio.vacuous else ratio.signal
    return math.inf if math.isnan(ratio.noise) else ratio.noise / signal if signal > 0 else 0.0


def _rounded(value: float | None) -> float | None:
    """To two digits; None for what JSON cannot hold."""
    return None if value is None or not math.isfinite(value) else round(value, 2)
