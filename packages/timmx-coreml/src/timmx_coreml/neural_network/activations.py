"""Activation functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from timmx_coreml.neural_network.layer import Layer, Step, translates
from timmx_coreml.schema import schema

if TYPE_CHECKING:
    from collections.abc import Callable


@translates("activation")
def _activation(layer: Layer) -> Step:
    return activation(layer, layer.params)


def activation(layer: Layer, params: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function of an `ActivationParams` message; recurrent layers use them too."""
    kind = params.WhichOneof("NonlinearityType")
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "ReLU": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softsign": F.softsign,
        "softplus": _softplus,
    }
    if kind in functions:
        return functions[kind]
    if kind is None:
        raise layer.damaged("it has no function")
    if kind in ("PReLU", "parametricSoftplus"):
        return _by_channel(layer, kind, getattr(params, kind))
    message = getattr(params, kind)
    alpha = float(message.alpha)
    if kind == "leakyReLU":
        return lambda x: torch.where(x >= 0, x, alpha * x)
    if kind == "ELU":
        return lambda x: torch.where(x >= 0, x, alpha * torch.expm1(x))
    if kind == "thresholdedReLU":
        return lambda x: torch.where(x >= alpha, x, 0.0)
    beta = float(message.beta) if kind in ("linear", "scaledTanh", "sigmoidHard") else 0.0
    if kind == "linear":
        return lambda x: alpha * x + beta
    if kind == "scaledTanh":
        return lambda x: alpha * torch.tanh(beta * x)
    if kind == "sigmoidHard":
        return lambda x: torch.clamp(alpha * x + beta, 0.0, 1.0)
    raise layer.unsupported(f"it has the activation {kind!r}")


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + e^x) without overflow, and without torch's linear branch above 20."""
    return torch.logaddexp(x, torch.zeros(()))


def _by_channel(layer: Layer, kind: str, message: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return an activation with one parameter per channel (axis -3), or one for all."""

    def values(field: str) -> torch.Tensor:
        stored = getattr(message, field)
        # The message has no count; it is compared with the channels when the layer runs.
        count = len(stored.floatValue) or len(stored.float16Value) // 2
        if not count:
            raise layer.unsupported(f"{field!r} of {kind} is stored neither as float32 nor as float16")
        return layer.weights(field, [count], of=message).reshape(-1, 1, 1)

    alpha = values("alpha")
    if kind == "PReLU":
        return lambda x: _check_channels(x, torch.where(x >= 0, x, alpha * x))
    beta = values("beta")
    return lambda x: _check_channels(x, alpha * _softplus(beta * x))


def _check_channels(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if y.shape != x.shape:
        raise ValueError("its parameters do not fit the channels, axis -3")
    return y


@translates("gelu")
def _gelu(layer: Layer) -> Step:
    mode = schema("NeuralNetwork_pb2").GeluLayerParams.GeluMode.Name(layer.params.mode)
    if mode == "SIGMOID_APPROXIMATION":
        return lambda x: x * torch.sigmoid(1.702 * x)
    return lambda x: F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@translates("clampedReLU")
def _clamped_relu(layer: Layer) -> Step:
    alpha, beta = float(layer.params.alpha), float(layer.params.beta)
    return lambda x: torch.where(x >= 0, x, alpha * x).clamp(max=beta)


@translates("clip")
def _clip(layer: Layer) -> Step:
    low, high = float(layer.params.minVal), float(layer.params.maxVal)
    return lambda x: torch.clamp(x, low, high)
