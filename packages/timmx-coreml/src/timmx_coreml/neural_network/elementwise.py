"""Elementwise arithmetic, comparisons and logic."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch

from timmx_coreml.neural_network.layer import Layer, Step, translates
from timmx_coreml.schema import schema

if TYPE_CHECKING:
    from collections.abc import Callable

_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ceil": torch.ceil,
    "floor": torch.floor,
    "round": torch.round,
    "sign": torch.sign,
    "exp2": torch.exp2,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "erf": torch.erf,
    "logicalNot": lambda x: (x == 0).float(),
}

_BROADCAST: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "addBroadcastable": torch.add,
    "subtractBroadcastable": torch.sub,
    "multiplyBroadcastable": torch.mul,
    "divideBroadcastable": torch.div,
    "floorDivBroadcastable": lambda a, b: torch.floor(a / b),
    "modBroadcastable": torch.remainder,
    "powBroadcastable": torch.pow,
    "logicalAnd": lambda a, b: ((a != 0) & (b != 0)).float(),
    "logicalOr": lambda a, b: ((a != 0) | (b != 0)).float(),
    "logicalXor": lambda a, b: ((a != 0) ^ (b != 0)).float(),
}

_MANY: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "maxBroadcastable": torch.maximum,
    "minBroadcastable": torch.minimum,
}

_LIMITED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "multiply": torch.mul,
    "average": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
}

_COMPARISONS: dict[str, Callable[..., torch.Tensor]] = {
    "equal": torch.eq,
    "notEqual": torch.ne,
    "lessThan": torch.lt,
    "lessEqual": torch.le,
    "greaterThan": torch.gt,
    "greaterEqual": torch.ge,
}


@translates(*_FUNCTIONS)
def _function(layer: Layer) -> Step:
    return _FUNCTIONS[layer.kind]


@translates(*_BROADCAST, inputs=(2,))
def _broadcast(layer: Layer) -> Step:
    return _BROADCAST[layer.kind]


@translates(*_MANY, inputs=None)
def _broadcast_many(layer: Layer) -> Step:
    function = _MANY[layer.kind]
    return lambda *blobs: functools.reduce(function, blobs)


@translates(*_LIMITED, inputs=None)
def _limited(layer: Layer) -> Step:
    """The older arithmetic layers: any number of inputs, one of which must have the output's shape."""
    function = _LIMITED[layer.kind]
    if len(layer.inputs) == 1:
        if layer.kind not in ("add", "multiply"):
            raise layer.damaged("it has 1 input instead of at least 2")
        alpha = torch.tensor(float(layer.params.alpha))
        return lambda x: function(x, alpha)

    def combine(*blobs: torch.Tensor) -> torch.Tensor:
        y = functools.reduce(function, blobs)
        if all(blob.shape != y.shape for blob in blobs):
            # This layer's broadcasting is documented as limited; the *Broadcastable layers have no limit.
            raise layer.unsupported(f"none of its inputs has the output's shape {tuple(y.shape)}")
        return y / len(blobs) if layer.kind == "average" else y

    return combine


@translates(*_COMPARISONS, inputs=(1, 2))
def _comparison(layer: Layer) -> Step:
    function = _COMPARISONS[layer.kind]
    if len(layer.inputs) == 2:
        return lambda a, b: function(a, b).float()
    alpha = float(layer.params.alpha)
    return lambda x: function(x, alpha).float()


@translates("unary")
def _unary(layer: Layer) -> Step:
    params = layer.params
    kind = schema("NeuralNetwork_pb2").UnaryFunctionLayerParams.Operation.Name(params.type)
    alpha, shift, scale = float(params.alpha), float(params.shift), float(params.scale) or 1.0
    epsilon = float(params.epsilon) or 1e-6
    if kind == "LOG" and not params.epsilon:
        raise layer.unsupported(
            "its logarithm has no epsilon, and whether Core ML adds its default of 1e-6 is not documented"
        )
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "SQRT": torch.sqrt,
        "RSQRT": lambda x: torch.rsqrt(x + epsilon),
        "INVERSE": lambda x: torch.reciprocal(x + epsilon),
        "POWER": lambda x: torch.pow(x, alpha),
        "EXP": torch.exp,
        "LOG": lambda x: torch.log(x + epsilon),  # as coremltools documents it
        "ABS": torch.abs,
        "THRESHOLD": lambda x: torch.clamp(x, min=alpha),
    }
    function = functions[kind]
    if scale == 1.0 and shift == 0.0:
        return function
    return lambda x: function(scale * x + shift)


@translates("whereBroadcastable", inputs=(3,))
def _where(layer: Layer) -> Step:
    return lambda condition, a, b: torch.where(condition != 0, a, b)
