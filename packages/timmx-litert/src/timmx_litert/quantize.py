"""Quantizes a float `.tflite` to one of the modes, with ai-edge-quantizer."""

from __future__ import annotations

import contextlib
import io as streams
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import (
    ComputePrecision,
    OpQuantizationConfig,
    QuantGranularity,
    TensorDataType,
    TensorQuantizationConfig,
    TFLOperationName,
)
from ai_edge_quantizer.quantizer import Quantizer
from timmx.plugin import LayerState, worst_db

from timmx_litert.calibrate import observe, statistics
from timmx_litert.graph import Graph, Operation
from timmx_litert.options import IoType, LiteRTMode
from timmx_litert.plan import LINEAR, Plan, choose_plan, linear_positions
from timmx_litert.runner import open_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from timmx.plugin import CalibrationMethod, Figures, QuantizationPlan, QuantizationPlanner, Wish

_JUDGED_INPUTS = 8
"""The number of calibration inputs on which a plan is judged."""
_LARGE_WINDOW = 7 * 7
_EVERYTHING = ".*"
_QUANTIZER_NAMES = {"TRANSPOSE_CONV": TFLOperationName.CONV_2D_TRANSPOSE}
"""The operations to which the quantizer gives another name than the format."""


@dataclass(frozen=True, kw_only=True)
class IntegerSettings:
    """The settings of a calibrated mode.

    Attributes:
        bits: bits per activation, 8 or 16.
        io: the type of the file's input and output.
        per_channel: one scale per output channel.
        method: how ranges are chosen from the observed values.
        input_range: the smallest and largest value of the input, from the model's data config.
        pixel_bytes: the float file's input is already uint8 and has no range.
        probabilities: the outputs are probabilities, with the range 0 to 1 whatever calibration observes.
    """

    bits: int
    io: IoType
    per_channel: bool
    method: CalibrationMethod
    input_range: tuple[float, float]
    pixel_bytes: bool = False
    probabilities: bool = False


def halve(content: bytes) -> bytes:
    """Store weights in float16; the device computes with them in float32, or in float16 where it can."""
    config = OpQuantizationConfig(
        weight_tensor_config=TensorQuantizationConfig(num_bits=16, dtype=TensorDataType.FLOAT),
        compute_precision=ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    quantizer = Quantizer(content)
    quantizer.update_quantization_recipe(
        _EVERYTHING, TFLOperationName.ALL_SUPPORTED, config, AlgorithmName.FLOAT_CASTING
    )
    return _run(quantizer)


def store_weights(content: bytes, mode: LiteRTMode, *, per_channel: bool) -> bytes:
    """Store weights in 8 bits; arithmetic in float, or in integers whose ranges are determined at run time.

    Small depthwise convolutions compute in float either way: they lose most from one range for all channels, and
    XNNPACK, which does not run them with dynamic ranges, is twice as fast in float. From 7x7 on it is not.
    """
    quantizer = Quantizer(content)
    granularity = _granularity(per_channel)
    if mode is LiteRTMode.WEIGHT_INT8:
        quantizer.add_weight_only_config(
            _EVERYTHING, TFLOperationName.ALL_SUPPORTED, 8, granularity=granularity
        )
        return _run(quantizer)
    quantizer.add_dynamic_config(_EVERYTHING, TFLOperationName.ALL_SUPPORTED, 8, granularity=granularity)
    graph = Graph(content)
    for operation in graph.operations:
        if operation.kind != "DEPTHWISE_CONV_2D":
            continue
        _, rows, columns, _ = graph.tensors[operation.inputs[1]].shape
        if rows * columns < _LARGE_WINDOW:
            quantizer.add_weight_only_config(
                _scope(graph, operation), TFLOperationName.DEPTHWISE_CONV_2D, 8, granularity=granularity
            )
    return _run(quantizer)


@dataclass(frozen=True, kw_only=True)
class IntegerFile:
    """The result of `make_integer`.

    Attributes:
        content: the quantized `.tflite`.
        plan: how each of its operations computes.
        choice: the planner's choice of layers.
        measured: figures of the file.
        states: how each of the planner's layers computes.
    """

    content: bytes
    plan: Plan
    choice: QuantizationPlan
    measured: Figures
    states: dict[str, LayerState]


def make_integer(
    content: bytes,
    inputs: Iterable[np.ndarray],
    settings: IntegerSettings,
    planner: QuantizationPlanner,
    wish: Wish,
    convert: Callable[[np.ndarray], np.ndarray],
) -> IntegerFile:
    """Compute in integers, except where they would cost too much accuracy (see `plan`).

    Args:
        inputs: as the float file takes them, one image each; iterated several times.
        planner: chooses the layers that stay in float.
        wish: what the file should reach.
        convert: makes an input of the float file of one of the model, (N, C, H, W) float32.
    """
    graph = Graph(content)
    ranges = observe(content, graph, inputs, settings.method, settings.bits)
    if not settings.pixel_bytes:
        ranges[graph.tensors[graph.input].name] = settings.input_range
    if settings.probabilities:
        ranges |= {graph.tensors[index].name: (0.0, 1.0) for index in graph.outputs}
    calibration = statistics(ranges, graph)
    samples = [array for array, _ in zip(inputs, range(_JUDGED_INPUTS), strict=False)]
    expected = _outputs(content, samples)
    names = _names(graph, planner)

    def quantized(plan: Plan, *, set_io: bool = False) -> bytes:
        return _apply(content, graph, plan, settings, calibration, set_io=set_io)

    def measure_snr_db(plan: Plan) -> float:
        return worst_db(expected, _outputs(quantized(plan), samples))

    def build(choice: QuantizationPlan) -> tuple[Plan, Callable[[np.ndarray], list[np.ndarray]]]:
        exempt = frozenset(at for at, name in names.items() if name in choice.kept)
        plan = choose_plan(graph, exempt, measure_snr_db, wish.target_db)
        signature = open_interpreter(quantized(plan)).get_signature_runner()

        def run(batch: np.ndarray) -> list[np.ndarray]:
            answer = signature(input=convert(batch))
            return [answer[name] for name in sorted(answer)]

        return plan, run

    candidates = [names[at] for at in linear_positions(graph) if at in names]
    choice, plan, measured = planner.choose(candidates, wish, build)
    states = {names[at]: LayerState.STORED for at in plan.weight_only if at in names}
    states |= {names[at]: LayerState.INTEGER for at in plan.integer if at in names}
    return IntegerFile(
        content=quantized(plan, set_io=True), plan=plan, choice=choice, measured=measured, states=states
    )


def _names(graph: Graph, planner: QuantizationPlanner) -> dict[int, str]:
    """The planner's layers by the position of their operation."""
    weights = {
        at: key
        for at, operation in enumerate(graph.operations)
        if operation.kind in LINEAR and (key := graph.weight(operation)) is not None
    }
    names = planner.match(list(weights.values()))
    return {at: name for at, name in zip(weights, names, strict=True) if name is not None}


def _apply(
    content: bytes,
    graph: Graph,
    plan: Plan,
    settings: IntegerSettings,
    calibration: dict[str, Any],
    *,
    set_io: bool,
) -> bytes:
    quantizer = Quantizer(content)
    granularity = _granularity(settings.per_channel)
    for position in sorted(plan.integer | plan.weight_only):
        operation = graph.operations[position]
        name = _QUANTIZER_NAMES.get(operation.kind) or TFLOperationName(operation.kind)
        scope = _scope(graph, operation)
        if position in plan.integer:
            quantizer.add_static_config(scope, name, settings.bits, 8, weight_granularity=granularity)
        elif name is TFLOperationName.FULLY_CONNECTED:
            # As accurate and faster; quantizing only the weights would make the GPU delegate refuse the whole model.
            quantizer.add_dynamic_config(scope, name, 8, granularity=granularity)
        else:
            quantizer.add_weight_only_config(scope, name, 8, granularity=granularity)
    if set_io and settings.io is not IoType.FLOAT32:
        _set_io_type(quantizer, settings.io)
    return _run(quantizer, calibration)


def _set_io_type(quantizer: Quantizer, io: IoType) -> None:
    activations = TensorQuantizationConfig(
        num_bits=8,
        symmetric=False,
        granularity=QuantGranularity.TENSORWISE,
        dtype=TensorDataType.UINT if io is IoType.UINT8 else TensorDataType.INT,
    )
    weights = TensorQuantizationConfig(
        num_bits=8, symmetric=True, granularity=QuantGranularity.CHANNELWISE, dtype=TensorDataType.INT
    )
    config = OpQuantizationConfig(
        activation_tensor_config=activations,
        weight_tensor_config=weights,
        compute_precision=ComputePrecision.INTEGER,
        explicit_dequantize=False,
    )
    for name in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        quantizer.update_quantization_recipe(_EVERYTHING, name, config)


def _run(quantizer: Quantizer, calibration: dict[str, Any] | None = None) -> bytes:
    if not quantizer.need_calibration:
        calibration = None
    with contextlib.redirect_stderr(streams.StringIO()):  # it draws a progress bar although both are disabled
        result = quantizer.quantize(calibration, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _scope(graph: Graph, operation: Operation) -> str:
    """The pattern that matches only this operation in a quantizer recipe."""
    return f"^{re.escape(graph.scope(operation))}$"


def _granularity(per_channel: bool) -> QuantGranularity:
    return QuantGranularity.CHANNELWISE if per_channel else QuantGranularity.TENSORWISE


def _outputs(content: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each output, concatenated over all inputs."""
    signature = open_interpreter(content).get_signature_runner()
    answers = [signature(input=array) for array in inputs]
    return [np.concatenate([answer[name] for answer in answers]) for name in sorted(answers[0])]
