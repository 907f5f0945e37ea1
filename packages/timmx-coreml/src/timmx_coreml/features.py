"""Reads the inputs from a Core ML model's description: arrays and images, and their allowed shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timmx.plugin import UnsupportedError

from timmx_coreml.schema import schema

_CHANNELS = {"GRAYSCALE": 1, "GRAYSCALE_FLOAT16": 1, "RGB": 3, "BGR": 3}
ARRAY_DTYPES = {65568: "float32", 65552: "float16", 65600: "float64", 131104: "int32"}
"""Names of `ArrayFeatureType.ArrayDataType`."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """An input as the model's description defines it.

    Attributes:
        name: the input's name.
        shape: the default shape; (1, C, H, W) for an image.
        shapes: all allowed shapes if they are enumerated; otherwise empty.
        ranges: the smallest and largest size of each axis if they vary, None for no limit; otherwise empty.
        colors: RGB, BGR, GRAYSCALE or GRAYSCALE_FLOAT16 for an image; empty for an array.
    """

    name: str
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()
    colors: str = ""

    def check(self, value: Any) -> None:
        """Raise ValueError unless the value's shape is allowed; images may have any batch size."""
        shape = (1, *value.shape[1:]) if self.colors else tuple(value.shape)
        if self.shapes:
            fits, allowed = shape in self.shapes, " or ".join(map(str, self.shapes))
        elif self.ranges:
            fits = len(shape) == len(self.ranges) and all(
                low <= size and (high is None or size <= high)
                for size, (low, high) in zip(shape, self.ranges, strict=True)
            )
            allowed = " x ".join(f"{low}..{'' if high is None else high}" for low, high in self.ranges)
        else:
            fits, allowed = shape == self.shape, str(self.shape)
        if not fits:
            raise ValueError(
                f"The input {self.name!r} must have the shape {allowed}, not {tuple(value.shape)}."
            )


def read_input(described: Any) -> Feature:
    """Read one input.

    Args:
        described: a `FeatureDescription` message.

    Raises:
        UnsupportedError: it is not an array or an image.
    """
    kind = described.type.WhichOneof("Type")
    if kind == "multiArrayType":
        return _array(described.name, described.type.multiArrayType)
    if kind == "imageType":
        return _image(described.name, described.type.imageType)
    raise UnsupportedError(
        f"the input {described.name!r} has the type {kind!r} and is not an array or an image"
    )


def _array(name: str, array: Any) -> Feature:
    shape = tuple(int(size) for size in array.shape)
    flexibility = array.WhichOneof("ShapeFlexibility")
    if flexibility == "enumeratedShapes":
        shapes = {tuple(int(size) for size in each.shape) for each in array.enumeratedShapes.shapes}
        return Feature(name=name, shape=shape, shapes=tuple(sorted({shape, *shapes})))
    if flexibility == "shapeRange":
        return Feature(name=name, shape=shape, ranges=tuple(map(_bounds, array.shapeRange.sizeRanges)))
    return Feature(name=name, shape=shape)


def _image(name: str, image: Any) -> Feature:
    spaces = schema("FeatureTypes_pb2").ImageFeatureType.ColorSpace
    colors = spaces.Name(image.colorSpace) if image.colorSpace in spaces.values() else str(image.colorSpace)
    if colors not in _CHANNELS:
        raise UnsupportedError(
            f"the image {name!r} has the color space {colors}, which timmx does not support"
        )
    channels = _CHANNELS[colors]
    shape = (1, channels, int(image.height), int(image.width))
    flexibility = image.WhichOneof("SizeFlexibility")
    if flexibility == "enumeratedSizes":
        shapes = {(1, channels, int(size.height), int(size.width)) for size in image.enumeratedSizes.sizes}
        return Feature(name=name, shape=shape, shapes=tuple(sorted({shape, *shapes})), colors=colors)
    if flexibility == "imageSizeRange":
        sizes = _bounds(image.imageSizeRange.heightRange), _bounds(image.imageSizeRange.widthRange)
        return Feature(name=name, shape=shape, ranges=((1, 1), (channels, channels), *sizes), colors=colors)
    return Feature(name=name, shape=shape, colors=colors)


def _bounds(size_range: Any) -> tuple[int, int | None]:
    upper = int(size_range.upperBound)
    return int(size_range.lowerBound), None if upper < 0 else upper
