"""Pooling layers, and layers that pad and crop."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from timmx_coreml.neural_network.geometry import Pads, as_images, pad, padding_rule, restore_batch
from timmx_coreml.neural_network.layer import Layer, Step, translates
from timmx_coreml.schema import schema


@translates("pooling")
def _pooling(layer: Layer) -> Step:
    params = layer.params
    kind = schema("NeuralNetwork_pb2").PoolingLayerParams.PoolingType.Name(params.type)
    if params.globalPooling:
        return {"MAX": _global_max, "AVERAGE": _global_average, "L2": _global_l2}[kind]
    kernel, stride = layer.pair("kernelSize", 3), layer.pair("stride", 1)
    padding = params.WhichOneof("PoolingPaddingType")
    exclude = bool(params.avgPoolExcludePadding)
    if padding == "includeLastPixel":
        amounts = [int(amount) for amount in params.includeLastPixel.paddingAmounts] or [0, 0]
        if len(amounts) != 2:
            raise layer.damaged(f"its padding amounts have {len(amounts)} entries instead of 2")

        def pads_of(size: tuple[int, ...]) -> tuple[Pads, Pads]:
            return _complete(size, kernel, stride, (amounts[0], amounts[1]))

    else:
        rule = padding_rule(layer, padding, kernel, stride)

        def pads_of(size: tuple[int, ...]) -> tuple[Pads, Pads]:
            pads = rule(size)
            return pads, pads

    def pool(x: torch.Tensor) -> torch.Tensor:
        images = as_images(x)
        pads, counted = pads_of(images.shape[-2:])
        if kind == "MAX":
            return restore_batch(F.max_pool2d(pad(images, pads, -torch.inf), kernel, stride), x)
        values = images if kind == "AVERAGE" else images.square()
        sums = F.avg_pool2d(pad(values, pads), kernel, stride, divisor_override=1)
        if kind == "L2":
            return restore_batch(sums.sqrt(), x)
        return restore_batch(sums / _counts(images.shape[-2:], pads, counted, exclude, kernel, stride), x)

    return pool


def _complete(
    size: tuple[int, ...], kernel: tuple[int, int], stride: tuple[int, int], amounts: tuple[int, int]
) -> tuple[Pads, Pads]:
    """`includeLastPixel`: add windows until one contains the last pixel, beyond the padding if needed.

    Returns:
        The padding for all windows, and the part of it that an average counts: the declared padding, as in PyTorch's
        ceil_mode, which coremltools' documentation names as the same.

    Source: `PoolingLayerParams` in Apple's NeuralNetwork.proto.
    """
    pads: list[int] = []
    counted: list[int] = []
    for extent, window, step, amount in zip(size, kernel, stride, amounts, strict=True):
        count = -(-(extent + 2 * amount - window) // step) + 1
        if any(amounts) and (count - 1) * step >= extent + amount:
            count -= 1
        end = (count - 1) * step + window - extent - amount
        pads += [amount, end]
        counted += [amount, min(amount, end)]
    return (pads[0], pads[1], pads[2], pads[3]), (counted[0], counted[1], counted[2], counted[3])


def _counts(
    size: tuple[int, ...],
    pads: Pads,
    counted: Pads,
    exclude: bool,
    kernel: tuple[int, int],
    stride: tuple[int, int],
) -> torch.Tensor | int:
    """Return the divisors of an average: the elements of each window up to the counted padding."""
    if not any(pads) or (pads == counted and not exclude):
        return kernel[0] * kernel[1]
    ones = torch.ones(1, 1, *size)
    if not exclude:
        ones = pad(ones, counted, 1.0)
        rest = [whole - part for whole, part in zip(pads, counted, strict=True)]
        pads = rest[0], rest[1], rest[2], rest[3]
    return F.avg_pool2d(pad(ones, pads), kernel, stride, divisor_override=1)


def _global_max(x: torch.Tensor) -> torch.Tensor:
    return x.amax((-2, -1), keepdim=True)


def _global_average(x: torch.Tensor) -> torch.Tensor:
    return x.mean((-2, -1), keepdim=True)


def _global_l2(x: torch.Tensor) -> torch.Tensor:
    return x.square().sum((-2, -1), keepdim=True).sqrt()


@translates("padding")
def _padding(layer: Layer) -> Step:
    kind = layer.params.WhichOneof("PaddingType")
    top, bottom, left, right = layer.borders(layer.params.paddingAmounts)
    if kind == "constant":
        value = float(layer.params.constant.value)
        return lambda x: pad(x, (top, bottom, left, right), value)
    modes = {"reflection": "reflect", "replication": "replicate"}
    if kind not in modes:
        raise layer.damaged("it has no padding type")

    def extend(x: torch.Tensor) -> torch.Tensor:
        planes = x.reshape(-1, 1, *x.shape[-2:])
        padded = F.pad(planes, (left, right, top, bottom), mode=modes[kind])
        return padded.reshape(*x.shape[:-2], *padded.shape[-2:])

    return extend


@translates("constantPad", inputs=(1, 2))
def _constant_pad(layer: Layer) -> Step:
    params = layer.params
    if params.padToGivenOutputSizeMode:
        raise layer.unsupported("it uses padToGivenOutputSizeMode")
    value = float(params.value)
    stored = [int(amount) for amount in params.padAmounts]
    if len(layer.inputs) == 1 and (not stored or len(stored) % 2):
        raise layer.damaged(f"it has {len(stored)} pad amounts")

    def extend(x: torch.Tensor, amounts: torch.Tensor | None = None) -> torch.Tensor:
        pads = stored if amounts is None else [int(amount) for amount in amounts.flatten()]
        if len(pads) != 2 * x.ndim:
            raise ValueError(f"it has {len(pads)} pad amounts instead of {2 * x.ndim}")
        # The format counts axes from the first, torch from the last.
        pairs = [pads[i : i + 2] for i in range(0, len(pads), 2)][::-1]
        return F.pad(x, [amount for pair in pairs for amount in pair], value=value)

    return extend


@translates("crop", inputs=(1, 2))
def _crop(layer: Layer) -> Step:
    if len(layer.inputs) == 1:
        top, bottom, left, right = layer.borders(layer.params.cropAmounts)
        return lambda x: pad(x, (-top, -bottom, -left, -right))
    down, across = layer.pair("offset", 0)
    return lambda x, like: x[..., down : down + like.shape[-2], across : across + like.shape[-1]]
