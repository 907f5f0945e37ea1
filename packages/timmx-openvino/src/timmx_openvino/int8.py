"""Computes the layers of a float32 graph in integers that the core's plan has chosen, with NNCF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openvino
import openvino.properties.hint as hints
from timmx.plugin import CalibrationMethod, IntegerScheme, LayerState, Precision, WeightKey, plan_notes

from timmx_openvino.graph import shared_core, varying_nodes
from timmx_openvino.layers import layers
from timmx_openvino.nncf_library import nncf, quantize, range_estimator

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import numpy as np
    from timmx.plugin import Calibration, ExportJob, QuantizationPlan

    from timmx_openvino.options import OpenVINOOptions

_MOVES = frozenset(
    "Concat Gather MaxPool Pad Relu Reshape Slice Split Squeeze StridedSlice Transpose Unsqueeze VariadicSplit".split()
)
"""Operations that move integers as they are: quantizers are moved above them."""


@dataclass(frozen=True)
class IntegerGraph:
    """The result of `to_int8`.

    Attributes:
        model: the quantized graph.
        facts: the entries of `format` in the metadata.
        notes: messages for the user.
    """

    model: openvino.Model
    facts: dict[str, Any]
    notes: tuple[str, ...]


def to_int8(
    model: openvino.Model, job: ExportJob, calibration: Calibration, options: OpenVINOOptions
) -> IntegerGraph:
    """Choose the layers by their accuracy, quantize them, and measure the graph.

    Args:
        model: float32; not changed.
        calibration: inputs from `job`.
        options: how ranges are chosen, and the largest drop.

    Raises:
        ConfigurationError: a drop cannot be measured with this model and these inputs.
        UnsupportedError: no plan meets the largest drop.
    """
    method = options.calibration_method or CalibrationMethod.MINMAX
    planner = job.quantization_planner(calibration, IntegerScheme(rounded_results=frozenset(), method=method))
    found = layers(model)
    names = planner.match([WeightKey.of(layer.weight) for layer in found])
    matched = {layer.name: name for layer, name in zip(found, names, strict=True) if name is not None}
    data = _Inputs(calibration, job.request.batch_size or 1)

    def build(plan: QuantizationPlan) -> tuple[openvino.Model, Callable[[np.ndarray], Sequence[np.ndarray]]]:
        chosen = {node for node, name in matched.items() if name not in plan.kept}
        quantized = _quantize(model, chosen, data, method) if chosen else model.clone()
        return quantized, _opened(quantized)

    wish = job.wish(Precision.INT8, options.max_drop)
    plan, quantized, measured = planner.choose(list(matched.values()), wish, build)
    states = {name: LayerState.INTEGER for name in matched.values() if name not in plan.kept}
    shown = planner.facts(plan, measured, states)
    facts = {
        "calibration": calibration.origin,
        "calibration_method": str(method),
        "quantization_plan": shown,
    }
    return IntegerGraph(quantized, facts, plan_notes(shown))


class _Inputs:
    """Calibration inputs in batches; can be iterated several times."""

    def __init__(self, calibration: Calibration, batch: int) -> None:
        self._calibration, self._batch = calibration, batch

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._calibration.batches(self._batch))

    def __len__(self) -> int:
        return -(-len(self._calibration) // self._batch)


def _quantize(
    model: openvino.Model, chosen: Collection[str], data: _Inputs, method: CalibrationMethod
) -> openvino.Model:
    """The graph with quantizers in front of the chosen layers only.

    The ranges are of all inputs. NNCF's own default, the mean of the inputs' largest values, cuts them off: it leaves
    5.7 dB of the trained mobilenetv3_small_050 and 5.5 dB of the efficientnet_b0, in place of 26 and 22 (NNCF 3.4).
    Nor are biases corrected, which costs more than it repairs with these ranges.
    """
    exact = method is CalibrationMethod.MINMAX

    def end(name: str) -> Any:
        statistics = range_estimator.StatisticsType[name if exact else "QUANTILE"]
        return range_estimator.StatisticsCollectorParameters(
            statistics, range_estimator.AggregatorType[name], quantile_outlier_prob=1e-4
        )

    others = [
        node.get_friendly_name()
        for node in varying_nodes(model)
        if node.get_friendly_name() not in chosen and node.get_type_name() not in _MOVES
    ]
    return quantize(
        model.clone(),
        nncf.Dataset(data),
        subset_size=len(data),
        preset=nncf.QuantizationPreset.MIXED,  # activations with a zero point
        ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=True,
            activations_range_estimator_params=range_estimator.RangeEstimatorParameters(
                end("MIN"), end("MAX")
            ),
        ),
    )


def _opened(model: openvino.Model) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """Run a graph with the arithmetic that its quantizers state, in float, so that the file is the same on every CPU.

    `LP_TRANSFORMS_MODE` is a setting of OpenVINO's CPU plugin that has no constant in Python (2026.4).
    """
    compiled = shared_core().compile_model(
        model, "CPU", {hints.inference_precision: openvino.Type.f32, "LP_TRANSFORMS_MODE": "NO"}
    )
    request = compiled.create_infer_request()

    def run(batch: np.ndarray) -> Sequence[np.ndarray]:
        results = request.infer([batch])
        return [results[index] for index in range(len(results))]

    return run
