"""Preprocesses an image for an artifact by its data config, as timm's transform does, without torch.

Importing torch and timm takes longer than running a small model on an image. So the evaluation transform of timm 1.0
and torchvision 0.29 is implemented here with Pillow, which they use too, and numpy. A test compares the two.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from timmx.errors import ArtifactError, ConfigurationError
from timmx.inputs.depth import DepthReport, to_8_bits
from timmx.inputs.images import ImageSettings, open_image, orientation_of, upright
from timmx.model import DataConfig

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from timmx.contract import Metadata

_SMALL_PIXELS = 2**24
_MOST_GROWTH = 64
"""A resized image has at most as many pixels as the original, 64 times the size that it is cropped from, or 16.7
million, which take 67 MB: with an input of 224 x 224, sides can have a ratio of 256. timm has no limit: it enlarges
1 x 330,000 pixels to 224 x 73,920,000 and then crops 224 of the rows."""
_PIXEL_BYTES = 4

_MODES = {"RGB": "RGB", "BGR": "RGB", "L": "L"}


class ImagePreprocessor:
    """Turns an image into the input of an artifact.

    Attributes:
        data_config: timm's data config.
        in_graph: the artifact normalizes, so its input is pixels in [0, 1].
        color_order: `RGB`, `BGR`, `L`, or None if the input is not an image.
        settings: how files are read.
        depth: the 16-bit images that were read; its warning is up to the caller.
    """

    def __init__(
        self,
        data_config: DataConfig,
        in_graph: bool,
        color_order: str | None,
        settings: ImageSettings | None = None,
    ) -> None:
        self.data_config = data_config
        self.in_graph = in_graph
        self.color_order = color_order
        self.settings = settings or ImageSettings()
        self.depth = DepthReport()
        shape = (-1, 1, 1)
        self._mean = np.asarray(data_config.mean, np.float32).reshape(shape)
        self._std = np.asarray(data_config.std, np.float32).reshape(shape)

    @classmethod
    def for_model(cls, data_config: DataConfig, in_graph: bool) -> ImagePreprocessor:
        """The preprocessing for a model that takes images of 1 or 3 channels.

        Raises:
            ConfigurationError: the interpolation is unknown.
        """
        preprocessor = cls(data_config, in_graph, {1: "L", 3: "RGB"}[data_config.input_size[0]])
        preprocessor.check()
        return preprocessor

    @classmethod
    def of(cls, metadata: Metadata, settings: ImageSettings | None = None) -> ImagePreprocessor:
        """The preprocessing in an artifact's metadata."""
        entry = metadata.input
        config = DataConfig(
            input_size=entry.size,
            mean=entry.mean,
            std=entry.std,
            interpolation=entry.interpolation,
            crop_pct=entry.crop_pct,
            crop_mode=entry.crop_mode,
            exif=entry.exif,
        )
        return cls(config, entry.normalized_in_graph, entry.color_order, settings)

    def read(self, path: Path) -> np.ndarray:
        """Read an image file as the artifact's float input, (C, H, W) float32.

        Raises:
            ArtifactError: this artifact does not take images.
            ConfigurationError: the file is not an image, is damaged, or is too large.
        """
        return open_image(path, self.apply, self._working_bytes, self.settings.max_pixels)

    def apply(self, image: Image.Image) -> np.ndarray:
        """Preprocess an image, (C, H, W) float32: normalized, or pixels in [0, 1] if the artifact normalizes.

        Raises:
            ArtifactError: this artifact does not take images.
            ValueError: the scale of the image's values is unknown; see `to_8_bits`.
        """
        mode = self._mode
        converted, largest = to_8_bits(image, self.settings.bits)
        if largest is not None:
            self.depth.add(largest)
        if converted.mode != mode:  # a copy takes as much memory again
            converted = converted.convert(mode)
        if self.turns:
            converted = upright(converted, orientation_of(image))
        pixels = np.asarray(self._cut(converted), np.float32) / np.float32(255)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if self.color_order == "BGR":
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels if self.in_graph else (pixels - self._mean) / self._std)

    @property
    def turns(self) -> bool:
        """Whether images are turned as their EXIF orientation says."""
        stated = self.settings.exif
        return self.data_config.exif if stated is None else stated

    @property
    def _mode(self) -> str:
        self.check()
        return _MODES[str(self.color_order)]

    def check(self) -> None:
        """Check that the artifact takes images and that Pillow has its interpolation.

        Raises:
            ArtifactError: its channels are not colors.
            ConfigurationError: its interpolation is unknown.
        """
        from PIL import Image

        if self.color_order not in _MODES:
            raise ArtifactError(
                f"this file takes {self.data_config.input_size[0]} channels, so its input is not an image",
                hint="run it with timmx.open, on an array",
            )
        if self.data_config.interpolation.upper() not in Image.Resampling.__members__:
            names = ", ".join(item.name.lower() for item in Image.Resampling)
            raise ConfigurationError(
                f"the interpolation {self.data_config.interpolation!r} is unknown",
                hint=f"re-export it with one of {names}",
            )

    @property
    def border_color(self) -> tuple[float, ...]:
        """The color outside the image in crop mode `border`: the mean, 0 to 1, always in RGB order."""
        return self.data_config.mean[::-1] if self.color_order == "BGR" else self.data_config.mean

    def _cut(self, image: Image.Image) -> Image.Image:
        """The image resized and cropped to the input size by timm's crop mode."""
        fill: int | tuple[int, ...] = 0
        if self.data_config.crop_mode == "border":
            fill = tuple(round(255 * value) for value in self.border_color)
        resized = self._resize(image, self._resized_size(*image.size))
        return _center_crop(resized, self.data_config.input_size[1:], fill)

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) of an image of this size before it is cropped, by timm's crop mode."""
        scaled = self.data_config.scaled_size
        if self.data_config.crop_mode == "squash":
            return scaled
        if self.data_config.crop_mode == "border":
            return _keeping_ratio(width, height, scaled, max)
        if scaled[0] == scaled[1]:
            return _shortest_edge(width, height, scaled[0])
        return _keeping_ratio(width, height, scaled, min)

    def _working_bytes(self, image: Image.Image) -> int:
        """The memory for resizing an image and converting the result to floats.

        Raises:
            ValueError: its shape is so extreme that it grows far beyond the input size when it is resized.
        """
        size = image.width, image.height
        if not self.turns:
            return self._resizing_bytes(*size)
        turned = _PIXEL_BYTES * math.prod(size)
        # The EXIF data of a PNG may follow its pixels.
        return turned + max(self._resizing_bytes(*size), self._resizing_bytes(*size[::-1]))

    def _resizing_bytes(self, image_width: int, image_height: int) -> int:
        height, width = self._resized_size(image_width, image_height)
        # Pillow resizes the rows first.
        between = width * image_height if (width != image_width and height != image_height) else 0
        most = max(
            _SMALL_PIXELS, image_width * image_height, _MOST_GROWTH * math.prod(self.data_config.scaled_size)
        )
        pixels = max(width * height, between)
        if pixels > most:
            size = " x ".join(map(str, self.data_config.input_size[1:]))
            raise ValueError(
                f"its {image_width:,} x {image_height:,} pixels are resized to {pixels:,} before they are cropped to "
                f"{size}; the limit is {most:,}"
            )
        return _PIXEL_BYTES * (width * height + between) + 16 * math.prod(self.data_config.input_size)

    def _resize(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        from PIL import Image

        resample = Image.Resampling[self.data_config.interpolation.upper()]
        width_height = size[1], size[0]
        return image if image.size == width_height else image.resize(width_height, resample)


def _shortest_edge(width: int, height: int, edge: int) -> tuple[int, int]:
    """(height, width) with the shorter side `edge`, rounded as in torchvision's Resize."""
    short, long = min(width, height), max(width, height)
    other = int(edge * long / short)
    return (edge, other) if height <= width else (other, edge)


def _keeping_ratio(width: int, height: int, target: tuple[int, int], choose: Any) -> tuple[int, int]:
    """(height, width) in the image's ratio, one side as in `target`, rounded as in timm's ResizeKeepRatio."""
    ratio = choose(height / target[0], width / target[1])
    return round(height / ratio), round(width / ratio)


def _center_crop(image: Image.Image, size: tuple[int, int], fill: int | tuple[int, ...]) -> Image.Image:
    """The center of an image; the area outside the image is filled with `fill`."""
    from PIL import Image

    height, width = size
    left, top = _offset(image.width, width), _offset(image.height, height)
    if image.width >= width and image.height >= height:
        return image.crop((left, top, left + width, top + height))
    single = not isinstance(fill, tuple) or len(fill) == 1
    canvas = Image.new(image.mode, (width, height), fill[0] if isinstance(fill, tuple) and single else fill)
    canvas.paste(image, (-left, -top))
    return canvas


def _offset(size: int, crop: int) -> int:
    """The start of a crop, negative if it is larger than the image; rounded as in torchvision."""
    return -((crop - size) // 2) if crop > size else round((size - crop) / 2)
