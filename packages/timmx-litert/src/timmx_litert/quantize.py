"""ai-edge-quantizer at work: a float `.tflite` in, one of the modes out."""

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
from timmx.plugin import worst_db

from timmx_litert.calibrate import observe, statistics
from timmx_litert.graph import Graph, Operation
from timmx_litert.options import IoType, LiteRTMode
from timmx_litert.plan import Plan, choose_plan
from timmx_litert.runner import open_interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from timmx.plugin import CalibrationMethod

_JUDGED = 8
"""How many calibration inputs a plan is judged on."""
_LARGE_WINDOW = 7 * 7
_EVERYTHING = ".*"
_QUANTIZER_NAMES = {"TRANSPOSE_CONV": TFLOperationName.CONV_2D_TRANSPOSE}
"""Where the quantizer does not call an operation what the format does."""


@dataclass(frozen=True, kw_only=True)
class Integers:
    """What a calibrated mode is asked for.

    Attributes:
        bits: of activations, 8 or 16.
        io: the type at the file's edge.
        per_channel: one scale an output channel.
        edge: the range of the input's values, known from the model's data config.
        pixel_bytes: the float file's input is uint8 already, and has no range to find.
        probabilities: the outputs are such, from 0 to 1 whatever calibration sees.
    """

    bits: int
    io: IoType
    per_channel: bool
    method: CalibrationMethod
    edge: tuple[float, float]
    pixel_bytes: bool = False
    probabilities: bool = False


def halve(content: bytes) -> bytes:
    """Weights in float16; they are read as float32, or computed with as they are where the device can."""
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
    """Weights in 8 bits; arithmetic in float, or in integers whose ranges are found while running.

    Small depthwise convolutions compute in float either way: of all they lose most to one range for all channels, and
    XNNPACK, which does not run them with ranges found while running, is twice as fast in float. From 7x7 on it is not.
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


def make_integer(
    content: bytes, inputs: Iterable[np.ndarray], wanted: Integers, progress: Callable[[str], None]
) -> tuple[bytes, Plan]:
    """Integers throughout, but for what integers would cost too much (see `plan`).

    Args:
        inputs: as the float file takes them, one image each; gone through several times.
        progress: told what takes long.

    Returns:
        The file, and what its operations compute in.
    """
    graph = Graph(content)
    ranges = observe(content, graph, inputs, wanted.method, wanted.bits)
    if not wanted.pixel_bytes:
        ranges[graph.tensors[graph.input].name] = wanted.edge
    if wanted.probabilities:
        ranges |= {graph.tensors[index].name: (0.0, 1.0) for index in graph.outputs}
    found = statistics(ranges, graph)
    judged = [array for array, _ in zip(inputs, range(_JUDGED), strict=False)]
    expected = _answers(content, judged)

    def decibels(candidate: Plan) -> float:
        return worst_db(
            expected, _answers(_apply(content, graph, candidate, wanted, found, edges=False), judged)
        )

    chosen = choose_plan(graph, decibels, progress)
    return _apply(content, graph, chosen, wanted, found, edges=True), chosen


def _apply(
    content: bytes, graph: Graph, chosen: Plan, wanted: Integers, found: dict[str, Any], *, edges: bool
) -> bytes:
    quantizer = Quantizer(content)
    granularity = _granularity(wanted.per_channel)
    for position in sorted(chosen.integer | chosen.stored):
        operation = graph.operations[position]
        name = _QUANTIZER_NAMES.get(operation.kind) or TFLOperationName(operation.kind)
        scope = _scope(graph, operation)
        if position in chosen.integer:
            quantizer.add_static_config(scope, name, wanted.bits, 8, weight_granularity=granularity)
        elif name is TFLOperationName.FULLY_CONNECTED:
            # As accurate and faster; and weights alone would make the GPU delegate refuse the whole model.
            quantizer.add_dynamic_config(scope, name, 8, granularity=granularity)
        else:
            quantizer.add_weight_only_config(scope, name, 8, granularity=granularity)
    if edges and wanted.io is not IoType.FLOAT32:
        _set_edges(quantizer, wanted.io)
    return _run(quantizer, found)


def _set_edges(quantizer: Quantizer, io: IoType) -> None:
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


def _run(quantizer: Quantizer, found: dict[str, Any] | None = None) -> bytes:
    calibration = found if quantizer.need_calibration else None
    with contextlib.redirect_stderr(
        streams.StringIO()
    ):  # it draws progress bars, the second whatever it is told
        result = quantizer.quantize(calibration, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _scope(graph: Graph, operation: Operation) -> str:
    """The pattern that a quantizer recipe names one operation by."""
    return f"^{re.escape(graph.scope(operation))}$"


def _granularity(per_channel: bool) -> QuantGranularity:
    return QuantGranularity.CHANNELWISE if per_channel else QuantGranularity.TENSORWISE


def _answers(content: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each output for all inputs."""
    signature = open_interpreter(content).get_signature_runner()
    found = [signature(input=array) for array in inputs]
    return [np.concatenate([answer[name] for answer in found]) for name in sorted(found[0])]
