"""Layers that multiply by a matrix: convolutions, deconvolutions, inner products, matrix products, embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from timmx_coreml.neural_network.geometry import as_images, pad, padding_rule, restore_batch
from timmx_coreml.neural_network.layer import Layer, Step, translates


@translates("convolution", inputs=(1, 2))
def _convolution(layer: Layer) -> Step:
    params = layer.params
    groups = int(params.nGroups) or 1
    kernel, stride, dilation = (
        layer.pair("kernelSize", 3),
        layer.pair("stride", 1),
        layer.pair("dilationFactor", 1),
    )
    out_channels, kernel_channels = int(params.outputChannels), int(params.kernelChannels)
    if out_channels % groups:
        raise layer.damaged(f"{out_channels} output channels are not divisible into {groups} groups")
    bias = layer.weights("bias", [out_channels]) if params.hasBias else None
    if params.isDeconvolution:
        return _deconvolution(layer, groups, kernel, stride, dilation, bias)
    extent = (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1
    pads_of = padding_rule(layer, params.WhichOneof("ConvolutionPaddingType"), extent, stride)
    shape = (out_channels, kernel_channels, *kernel)

    def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        images = as_images(x)
        top, bottom, left, right = pads_of(images.shape[-2:])
        if top == bottom and left == right:
            y = F.conv2d(images, weight, bias, stride, (top, left), dilation, groups)
        else:
            y = F.conv2d(pad(images, (top, bottom, left, right)), weight, bias, stride, 0, dilation, groups)
        return restore_batch(y, x)

    if len(layer.inputs) == 2:

        def convolve_dynamic(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            if tuple(weight.shape) != shape:
                raise ValueError(f"the weights should be {shape}")
            return convolve(x, weight)

        return convolve_dynamic
    stored = layer.weights("weights", shape)
    return lambda x: convolve(x, stored)


def _deconvolution(
    layer: Layer,
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    bias: torch.Tensor | None,
) -> Step:
    params = layer.params
    if len(layer.inputs) != 1:
        raise layer.unsupported("it is a deconvolution whose weights are an input")
    if dilation != (1, 1):
        # The format's documentation says that Core ML ignores it, which no converter expects.
        raise layer.unsupported("it is a dilated deconvolution")
    shape = (int(params.kernelChannels), int(params.outputChannels) // groups, *kernel)
    weight = layer.weights("weights", shape, channel_axis=1)
    padding = params.WhichOneof("ConvolutionPaddingType")
    target = [int(size) for size in params.outputShape]
    if target and len(target) != 2:
        raise layer.damaged(f"its 'outputShape' has {len(target)} entries instead of 2")
    if padding is None and not target:
        raise layer.damaged("it has no padding type")
    borders = layer.borders(params.valid.paddingAmounts) if padding == "valid" else None

    def deconvolve(x: torch.Tensor) -> torch.Tensor:
        images = as_images(x)
        y = F.conv_transpose2d(images, weight, None, stride, 0, 0, groups)
        if borders is not None and not target:
            top, bottom, left, right = borders
        else:
            size = target or [images.shape[2] * stride[0], images.shape[3] * stride[1]]
            top, bottom = _even_crop(layer, y.shape[2] - size[0], None if borders is None else borders[:2])
            left, right = _even_crop(layer, y.shape[3] - size[1], None if borders is None else borders[2:])
        y = pad(y, (-top, -bottom, -left, -right))
        return restore_batch(y if bias is None else y + bias.reshape(-1, 1, 1), x)

    return deconvolve


def _even_crop(layer: Layer, surplus: int, borders: tuple[int, ...] | None) -> tuple[int, int]:
    """Return the crop before and after if only the output's size is set.

    The format's documentation does not say how the crop is split, so both sides must be equal.
    """
    half = surplus // 2
    if surplus < 0 or surplus % 2 or (borders is not None and borders != (half, half)):
        raise layer.unsupported(
            f"its output size leaves {surplus} to crop, and how Core ML splits that is not documented"
        )
    return half, half


@translates("innerProduct")
def _inner_product(layer: Layer) -> Step:
    params = layer.params
    if params.int8DynamicQuantize:
        raise layer.unsupported("it uses int8DynamicQuantize")
    channels, out_channels = int(params.inputChannels), int(params.outputChannels)
    weight = layer.weights("weights", [out_channels, channels])
    bias = layer.weights("bias", [out_channels]) if params.hasBias else None

    def multiply(x: torch.Tensor) -> torch.Tensor:
        if x.ndim <= 3:
            return F.linear(x, weight, bias)
        # (..., C, H, W) is one vector of C * H * W values; the result is (..., C_out, 1, 1).
        return F.linear(x.flatten(-3), weight, bias)[..., None, None]

    return multiply


@translates("batchedMatmul", inputs=(1, 2))
def _batched_matmul(layer: Layer) -> Step:
    params = layer.params
    if params.int8DynamicQuantize:
        raise layer.unsupported("it uses int8DynamicQuantize")
    if len(layer.inputs) == 1:
        rows, columns = int(params.weightMatrixFirstDimension), int(params.weightMatrixSecondDimension)
        # The matrix is (rows, columns), stored column by column; both transposes are ignored.
        stored = layer.weights("weights", [columns, rows])
        bias = layer.weights("bias", [columns]) if params.hasBias else None
        return lambda x: F.linear(x, stored, bias)
    if params.hasBias:
        raise layer.unsupported("it has a bias and two inputs")
    transpose_a, transpose_b = bool(params.transposeA), bool(params.transposeB)

    def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a = a[None] if a.ndim == 1 else a
        b = b[:, None] if b.ndim == 1 else b
        return torch.matmul(a.mT if transpose_a else a, b.mT if transpose_b else b)

    return multiply


@translates("embeddingND", "embedding")
def _embedding(layer: Layer) -> Step:
    params = layer.params
    with_spatial = layer.kind == "embedding"
    words, size = (
        (int(params.inputDim), int(params.outputChannels))
        if with_spatial
        else (int(params.vocabSize), int(params.embeddingSize))
    )
    table = layer.weights("weights", [size, words]).T.contiguous()
    if params.hasBias:
        table = table + layer.weights("bias", [size])
    trailing = (1, 1, 1) if with_spatial else (1,)

    def look_up(x: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[-len(trailing) :]) != trailing:
            raise ValueError(f"the last {len(trailing)} axes must be of size 1")
        vectors = table[_check_range(x.long(), words).reshape(x.shape[: -len(trailing)])]
        return vectors[..., None, None] if with_spatial else vectors

    return look_up


def _check_range(index: torch.Tensor, size: int) -> torch.Tensor:
    """Refuse negative indices, which torch would count from the end, and indices beyond the size."""
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= size):
        raise ValueError(f"indices must be 0 to {size - 1}")
    return index
