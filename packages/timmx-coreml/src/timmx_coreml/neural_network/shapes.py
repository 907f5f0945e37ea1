"""Layers that rearrange values without changing them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812

from timmx_coreml.neural_network.constants import shape_of
from timmx_coreml.neural_network.layer import Layer, Step, translates
from timmx_coreml.schema import schema


@translates("copy")
def _copy(layer: Layer) -> Step:
    return lambda x: x


@translates("reshapeStatic")
def _reshape_static(layer: Layer) -> Step:
    shape = [int(size) for size in layer.params.targetShape]
    if shape.count(-1) > 1 or any(size == 0 or size < -1 for size in shape):
        raise layer.damaged(f"its target shape is {shape}")
    return lambda x: x.reshape(shape)


@translates("rankPreservingReshape")
def _rank_preserving_reshape(layer: Layer) -> Step:
    shape = [int(size) for size in layer.params.targetShape]

    def reshape(x: torch.Tensor) -> torch.Tensor:
        if len(shape) != x.ndim:
            raise ValueError(f"the target shape has {len(shape)} axes")
        return x.reshape([size or x.shape[axis] for axis, size in enumerate(shape)])

    return reshape


@translates("reshapeDynamic", inputs=(2,))
def _reshape_dynamic(layer: Layer) -> Step:
    return lambda x, shape: x.reshape(shape_of(shape))


@translates("reshapeLike", inputs=(2,))
def _reshape_like(layer: Layer) -> Step:
    return lambda x, other: x.reshape(other.shape)


@translates("flattenTo2D")
def _flatten_to_2d(layer: Layer) -> Step:
    axis = int(layer.params.axis)

    def flatten(x: torch.Tensor) -> torch.Tensor:
        split = axis + x.ndim if axis < 0 else axis
        if not 0 <= split <= x.ndim:
            raise ValueError(f"axis {axis} does not exist")
        return x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))

    return flatten


@translates("flatten")
def _flatten(layer: Layer) -> Step:
    mode = schema("NeuralNetwork_pb2").FlattenLayerParams.FlattenOrder.Name(layer.params.mode)
    if mode == "CHANNEL_FIRST":
        return lambda x: x.flatten(-3)[..., None, None]
    return lambda x: x.movedim(-3, -1).flatten(-3)[..., None, None]


@translates("transpose")
def _transpose(layer: Layer) -> Step:
    axes = [int(axis) for axis in layer.params.axes]
    if sorted(axes) != list(range(len(axes))):
        raise layer.damaged(f"its axes {axes} are not a permutation")
    return lambda x: x.permute(axes)


@translates("permute")
def _permute(layer: Layer) -> Step:
    """Axes 0 to 3 are sequence, channel, height and width of five axes; the batch axis stays in place."""
    axes = [int(axis) for axis in layer.params.axis] or [0, 1, 2, 3]
    if sorted(axes) != [0, 1, 2, 3]:
        raise layer.damaged(f"its axes {axes} are not a permutation of 0 to 3")
    sequence, *rest = ((0, 2, 3, 4)[axis] for axis in axes)
    return lambda x: x.permute(sequence, 1, *rest)


@translates("expandDims")
def _expand_dims(layer: Layer) -> Step:
    axes = [int(axis) for axis in layer.params.axes]
    if not axes:
        raise layer.damaged("it has no axes")

    def expand(x: torch.Tensor) -> torch.Tensor:
        rank = x.ndim + len(axes)
        places = sorted(axis + rank if axis < 0 else axis for axis in axes)
        if len(set(places)) != len(places) or places[0] < 0 or places[-1] >= rank:
            raise ValueError(f"axes {axes} do not fit")
        for place in places:
            x = x.unsqueeze(place)
        return x

    return expand


@translates("squeeze")
def _squeeze(layer: Layer) -> Step:
    axes = [int(axis) for axis in layer.params.axes]
    if layer.params.squeezeAll:
        return lambda x: x.squeeze()
    if not axes:
        raise layer.damaged("it has no axes")

    def squeeze(x: torch.Tensor) -> torch.Tensor:
        if any(x.shape[axis] != 1 for axis in axes):
            raise ValueError(f"the axes {axes} are not all of size 1")
        return x.squeeze(axes)

    return squeeze


@translates("concat", inputs=None)
def _concat(layer: Layer) -> Step:
    axis = -5 if layer.params.sequenceConcat else -3
    return lambda *blobs: torch.cat(blobs, axis)


@translates("concatND", inputs=None)
def _concat_nd(layer: Layer) -> Step:
    axis = int(layer.params.axis)
    if not layer.params.interleave:
        return lambda *blobs: torch.cat(blobs, axis)

    def interleave(*blobs: torch.Tensor) -> torch.Tensor:
        place = axis % blobs[0].ndim
        return torch.stack(blobs, place + 1).flatten(place, place + 1)

    return interleave


@translates("stack", inputs=None)
def _stack(layer: Layer) -> Step:
    axis = int(layer.params.axis)
    return lambda *blobs: torch.stack(blobs, axis)


@translates("split", "splitND", outputs=None)
def _split(layer: Layer) -> Step:
    params = layer.params
    if layer.kind == "split":
        axis, count, sizes = -3, int(params.nOutputs), []
    else:
        axis, count, sizes = (
            int(params.axis),
            int(params.numSplits),
            [int(size) for size in params.splitSizes],
        )
    if len(layer.outputs) != (len(sizes) or count) or (sizes and count not in (0, len(sizes))):
        raise layer.damaged(f"it writes {len(layer.outputs)} blobs and declares {len(sizes) or count}")

    def split(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if sizes:
            return x.split(sizes, axis)
        if x.shape[axis] % count:
            raise ValueError(f"axis {axis} is not divisible into {count}")
        return x.chunk(count, axis)

    return split


@translates("tile", inputs=(1, 2))
def _tile(layer: Layer) -> Step:
    stored = [int(times) for times in layer.params.reps]
    if len(layer.inputs) == 1 and (not stored or min(stored) < 1):
        raise layer.damaged(f"its repetitions are {stored}")

    def tile(x: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        repetitions = stored if times is None else shape_of(times)
        if len(repetitions) != x.ndim:
            raise ValueError(f"there are {len(repetitions)} repetitions")
        return x.repeat(repetitions)

    return tile


@translates("reverse")
def _reverse(layer: Layer) -> Step:
    flags = [bool(flag) for flag in layer.params.reverseDim]

    def reverse(x: torch.Tensor) -> torch.Tensor:
        if len(flags) != x.ndim:
            raise ValueError(f"there are {len(flags)} flags")
        return x.flip([axis for axis, flag in enumerate(flags) if flag])

    return reverse


@translates("slidingWindows")
def _sliding_windows(layer: Layer) -> Step:
    axis, size, step = int(layer.params.axis), int(layer.params.windowSize), int(layer.params.step)
    if size < 1 or step < 1:
        raise layer.damaged(f"its window is {size} and its step {step}")
    # torch puts the window last, the format right after the axis.
    return lambda x: x.unfold(axis, size, step).movedim(-1, axis % x.ndim + 1)


@translates("reorganizeData")
def _reorganize(layer: Layer) -> Step:
    block = int(layer.params.blockSize)
    if block < 2:
        raise layer.damaged(f"its block size is {block}")
    modes = schema("NeuralNetwork_pb2").ReorganizeDataLayerParams.ReorganizationType
    mode = modes.Name(layer.params.mode)
    if mode == "PIXEL_SHUFFLE":
        return lambda x: F.pixel_shuffle(x, block)

    def reorganize(x: torch.Tensor) -> torch.Tensor:
        *batch, channels, height, width = x.shape
        if mode == "SPACE_TO_DEPTH":
            # The position in the block comes before the channel, as in TensorFlow's operation.
            y = x.reshape(-1, channels, height // block, block, width // block, block)
            y = y.permute(0, 3, 5, 1, 2, 4)
            return y.reshape(*batch, channels * block**2, height // block, width // block)
        y = x.reshape(-1, block, block, channels // block**2, height, width)
        y = y.permute(0, 3, 4, 1, 5, 2)
        return y.reshape(*batch, channels // block**2, height * block, width * block)

    return reorganize


@translates("matrixBandPart", "lowerTriangular", "upperTriangular")
def _triangular(layer: Layer) -> Step:
    params = layer.params
    if layer.kind == "lowerTriangular":
        return lambda x: x.tril(int(params.k))
    if layer.kind == "upperTriangular":
        return lambda x: x.triu(int(params.k))
    lower, upper = int(params.numLower), int(params.numUpper)

    def band(x: torch.Tensor) -> torch.Tensor:
        x = x if lower < 0 else x.triu(-lower)
        return x if upper < 0 else x.tril(upper)

    return band
