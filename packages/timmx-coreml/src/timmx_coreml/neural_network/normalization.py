"""Normalization, softmax, scale and bias layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from timmx_coreml.neural_network.geometry import as_images
from timmx_coreml.neural_network.layer import Layer, Step, translates

if TYPE_CHECKING:
    from collections.abc import Sequence


@translates("batchnorm")
def _batchnorm(layer: Layer) -> Step:
    params = layer.params
    channels = [int(params.channels)]
    gamma, beta = layer.weights("gamma", channels), layer.weights("beta", channels)
    epsilon = float(params.epsilon) or 1e-5
    if not params.computeMeanVar:
        mean, variance = layer.weights("mean", channels), layer.weights("variance", channels)
        return lambda x: F.batch_norm(
            as_images(x, 3), mean, variance, gamma, beta, training=False, eps=epsilon
        ).reshape(x.shape)
    axes = (-2, -1) if params.instanceNormalization else (0, -2, -1)

    def normalize(x: torch.Tensor) -> torch.Tensor:
        images = as_images(x, 3)
        if images.shape[1] != len(gamma):
            raise ValueError(f"{len(gamma)} channels are declared")
        variance, mean = torch.var_mean(images, axes, correction=0, keepdim=True)
        y = (images - mean) / (variance + epsilon).sqrt()
        return (y * gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1)).reshape(x.shape)

    return normalize


@translates("mvn")
def _mean_variance(layer: Layer) -> Step:
    axes = (-3, -2, -1) if layer.params.acrossChannels else (-2, -1)
    if not layer.params.normalizeVariance:
        return lambda x: x - x.mean(axes, keepdim=True)
    epsilon = float(layer.params.epsilon) or 1e-6

    def normalize(x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        # The epsilon is inside the root: coremltools writes layer norms as this layer, with the norm's own epsilon.
        return (x - mean) / (variance + epsilon).sqrt()

    return normalize


@translates("layerNormalization")
def _layer_norm(layer: Layer) -> Step:
    shape = [int(size) for size in layer.params.normalizedShape]
    if not shape:
        raise layer.damaged("its normalized shape is empty")
    gamma, beta = layer.weights("gamma", shape), layer.weights("beta", shape)
    epsilon = float(layer.params.eps)
    return lambda x: F.layer_norm(x, shape, gamma, beta, epsilon)


@translates("l2normalize")
def _l2_normalize(layer: Layer) -> Step:
    epsilon = float(layer.params.epsilon) or 1e-6
    return lambda x: x / (x.square().sum((-3, -2, -1), keepdim=True) + epsilon).sqrt()


@translates("lrn")
def _local_response(layer: Layer) -> Step:
    params = layer.params
    size, alpha, beta, k = (
        int(params.localSize),
        float(params.alpha),
        float(params.beta),
        float(params.k) or 1.0,
    )
    if size % 2 == 0:
        raise layer.unsupported(
            f"its window has {size} channels, and the longer side of an even window is not documented"
        )

    def normalize(x: torch.Tensor) -> torch.Tensor:
        squares = F.pad(as_images(x, 3).square(), (0, 0, 0, 0, size // 2, size // 2))
        sums = squares.unfold(1, size, 1).sum(-1).reshape(x.shape)
        return x / (k + alpha / size * sums) ** beta

    return normalize


@translates("softmax")
def _softmax(layer: Layer) -> Step:
    return lambda x: torch.softmax(x, -3)


@translates("softmaxND")
def _softmax_nd(layer: Layer) -> Step:
    axis = int(layer.params.axis)
    return lambda x: torch.softmax(x, axis)


@translates("scale")
def _scale(layer: Layer) -> Step:
    params = layer.params
    scale = _channel_like(layer, "scale", params.shapeScale)
    if not params.hasBias:
        return lambda x: _same_shape(x * scale, x)
    bias = _channel_like(layer, "bias", params.shapeBias)
    return lambda x: _same_shape(x * scale + bias, x)


@translates("bias")
def _bias(layer: Layer) -> Step:
    bias = _channel_like(layer, "bias", layer.params.shape)
    return lambda x: _same_shape(x + bias, x)


def _channel_like(layer: Layer, field: str, sizes: Sequence[Any]) -> torch.Tensor:
    """Return values of shape [1], [C], [1, H, W] or [C, H, W] that broadcast over (..., C, H, W)."""
    shape = [int(size) for size in sizes]
    if len(shape) not in (1, 3):
        raise layer.damaged(f"the shape {shape} of its {field!r} has {len(shape)} entries instead of 1 or 3")
    values = layer.weights(field, shape)
    return values.reshape(-1, 1, 1) if len(shape) == 1 else values


def _same_shape(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if y.shape != x.shape:
        raise ValueError("the stored values do not fit the input")
    return y
