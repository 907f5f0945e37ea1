"""Images of 16 bits per channel, as images of 8.

The depth that a file states decides: BitsPerSample of a TIFF, sBIT of a PNG, the largest value of a PGM. Files of 16
bits often hold the 10, 12 or 14 bits of a camera and do not state it. Such an image cannot be distinguished from a dark
one, so it is read as dark, and a warning names the largest value. If all images of a command are like that, it fails
until `--image-bits` states the depth.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

import numpy as np

from timmx.base import counted
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL import Image

_FEW_BITS = 14
"""Values of at most as many bits are warned about: the image has less than a quarter of the full brightness."""

_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339
"""Tags of TIFF."""
_MINISWHITE, _SIGNED = 0, 2


_LEAST_DARK = 4
"""Fewer images that are all dark are warned about only."""


def to_8_bits(image: Image.Image, bits_of_all: int | None = None) -> tuple[Image.Image, int | None]:
    """An image with 8 bits per channel.

    Gray values are scaled by 255 / the largest value of their depth and rounded. Pillow's `convert` clips them at 255.
    Pillow itself reads colors of 16 bits as their high bytes.

    Args:
        image: not decoded yet, so that Pillow still knows the file.
        bits_of_all: the depth of images of 16 bits, whatever the file states; not of PGM, which Pillow scales.

    Returns:
        The image, and its largest value of 16 bits if neither the file nor the caller states the depth; otherwise None.

    Raises:
        ValueError: its values have no known scale: floats, signed or 32-bit integers.
    """
    from PIL import Image

    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    raw_mode = _raw_mode(image)
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose scale is unknown; save it with 8 or 16 bits")
    bits = min([32 if image.mode == "I" else 16, *_each(tags.get(_BITS, ()))])
    if bits > 16 and image.format != "PPM":
        raise ValueError("its pixels are 32-bit integers, whose scale is unknown; save it with 8 or 16 bits")
    if _SIGNED in _each(tags.get(_SAMPLE_FORMAT, ())):
        raise ValueError("its pixels are signed integers, whose scale is unknown; save it with unsigned ones")
    if not image.mode.startswith("I"):
        if "16" not in raw_mode or bits_of_all == 16:
            return image, None
        if bits_of_all is not None:
            raise ValueError(
                f"its colors have 16 bits, of which Pillow reads the upper 8, too few of {bits_of_all}; save it with 8"
            )
        return image, _largest_of_high_bytes(image)
    bits = min(16, bits)  # Pillow scales those of a PGM to 16
    significant = _significant_bits(image) if image.format == "PNG" else 16
    stated = bits < 16 or significant < 16 or (image.format == "PPM" and raw_mode == "L")
    values = np.asarray(image)
    largest = int(values.max())
    # The values of a PNG fill 16 bits whatever sBIT says: those of 12 bits end with 4 zeros or repeat the first 4 bits,
    # which are zeros if the image is dark. If they end otherwise, the 12 bits were stored as they are.
    if largest < 2**significant < 2**16 and (values & (2 ** (16 - significant) - 1)).any():
        bits = significant
    if bits_of_all is not None and image.format != "PPM":
        if largest >= 2**bits_of_all:
            raise ValueError(
                f"it has values of up to {largest:,}, more than {bits_of_all} bits; see --image-bits"
            )
        bits, stated = bits_of_all, True
    scaled = _SCALES[bits] if bits in _SCALES else _scale(bits)
    if tags.get(_PHOTOMETRIC) == _MINISWHITE and not raw_mode.endswith("I"):  # Pillow inverts 8 bits only
        scaled = scaled[::-1]
    return Image.fromarray(scaled[np.minimum(values, len(scaled) - 1)]), None if stated else largest


def _scale(bits: int) -> np.ndarray:
    """The 8-bit value of each value of this depth."""
    most = 2**bits - 1
    return ((np.arange(most + 1, dtype=np.uint32) * 510 + most) // (2 * most)).astype(np.uint8)


_SCALES = {16: _scale(16)}


def _each(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,) if isinstance(value, int) else ()


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for the pixels in the file, such as `RGB;16B`; empty if it is unknown."""
    tiles = getattr(image, "tile", None)  # an image that is not of a file has none
    if not tiles:
        return ""
    codec, arguments = tiles[0][0], tiles[0][3]
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return codec if codec == "SGI16" else str(mode)


def _largest_of_high_bytes(image: Image.Image) -> int:
    """The largest 16-bit value that the colors of an image can have had; transparency does not count."""
    extremes = image.getextrema()
    ranges = extremes if isinstance(extremes[0], tuple) else (extremes,)
    colors = [band[1] for name, band in zip(image.getbands(), ranges, strict=True) if name != "A"]
    largest = int(max(colors))
    return 256 * largest + 255 if largest else 0


_MOST_CHUNKS = 100


def _significant_bits(image: Image.Image) -> int:
    """The sBIT of a PNG, from the chunks before its pixels; 16 if it has none."""
    file = getattr(image, "fp", None)
    if file is None:
        return 16
    position = file.tell()
    try:
        file.seek(8)
        for _ in range(_MOST_CHUNKS):
            header = file.read(8)
            if len(header) < 8 or header[4:] in (b"IDAT", b"IEND"):
                return 16
            (size,) = struct.unpack(">I", header[:4])
            if header[4:] == b"sBIT" and size:
                return min(16, max(1, file.read(1)[0]))
            file.seek(size + 4, 1)
    except (OSError, IndexError, ValueError):  # damaged: reading its pixels reports it
        return 16
    finally:
        file.seek(position)
    return 16


class DepthReport:
    """How many bits the 16-bit images of a command use; filled by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images = self._few = self._largest = 0
        self._refused = False

    def add(self, largest: int) -> None:
        """Count an image by its largest value; a black image says nothing."""
        with self._lock:
            self._images += 1
            if 0 < largest < 2**_FEW_BITS:
                self._few += 1
                self._largest = max(self._largest, largest)

    def check(self, images: int = _LEAST_DARK) -> None:
        """Refuse images that all use few bits, if there are at least as many; then `warning` is empty.

        Raises:
            ConfigurationError: they are probably of a smaller depth than 16 bits.
        """
        with self._lock:
            count, few, largest = self._images, self._few, self._largest
            if count < images or few < count:
                return
            self._refused = True  # threads may still add images
        bits = largest.bit_length()
        raise ConfigurationError(
            f"all {count:,} images of 16 bits have values of at most {largest:,} of 65,535: they are very dark, or "
            f"have {bits} bits",
            hint=f"use --image-bits {bits} if that is their depth, or --image-bits 16 if they are dark",
        )

    def warning(self) -> str:
        """The warning about images that use few bits since the last call; empty if there are none."""
        with self._lock:
            images, few, largest = self._images, self._few, self._largest
            self._images = self._few = self._largest = 0
            refused = self._refused
        if refused or not few:
            return ""
        bits = largest.bit_length()
        they = "its values are" if few == 1 else "their values are"
        return (
            f"{few:,} of {counted(images, '16-bit image')}: {they} at most {largest:,} of 65,535, and read as dark. "
            f"If they have {bits} bits, save them with 8, or use --image-bits {bits} of predict and eval."
        )
