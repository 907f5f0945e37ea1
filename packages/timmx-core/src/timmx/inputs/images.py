"""Image files: listing those of a folder by suffix, opening and checking one."""

from __future__ import annotations

import os
import re
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from timmx.base import counted, memory_bytes, open_file, size_text, walk
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    import numpy as np
    from PIL import Image

Item = TypeVar("Item")

IMAGE_SUFFIXES = frozenset(
    (
        *(
            ".png",
            ".apng",
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".mpo",
            ".bmp",
            ".dib",
            ".webp",
            ".tif",
            ".tiff",
            ".gif",
        ),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c", ".avif", ".avifs"),
        *(".tga", ".icb", ".vda", ".vst", ".pcx", ".qoi", ".sgi", ".bw", ".rgb", ".rgba"),
    )
)
"""Of the formats that `open_image` reads."""


def image_paths(folder: Path, least: int = 1) -> list[Path]:
    """The image files below `folder`, sorted.

    Args:
        folder: searched recursively.
        least: the smallest number of images.

    Raises:
        ConfigurationError: the folder does not exist, or has fewer than `least` images.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"the folder {folder} does not exist", hint="name a folder of images")
    paths = list_images(folder)
    if len(paths) < least:
        raise ConfigurationError(
            f"{folder} holds {counted(len(paths), 'image')}; at least {least} are required",
            hint="name a folder with more images",
        )
    return paths


def list_images(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted; empty if the folder does not exist. Links to folders are followed.

    Raises:
        ArtifactError: see `timmx.base.walk`.
    """
    return sorted(path for path in walk(folder, follow_links=True) if path.suffix.lower() in IMAGE_SUFFIXES)


def other_files(folder: Path) -> str:
    """A warning about the files below `folder` that are not searched for images; empty if there are none.

    Hidden files, text and tables are not counted: they describe the images.
    """
    return files_left_out(walk(folder, follow_links=True), f"in {folder}")


def files_left_out(paths: Iterable[Path], where: str) -> str:
    """A warning about those of some files that are not read as images because of their suffix; see `other_files`."""
    suffixes = Counter(
        path.suffix.lower()
        for path in paths
        if path.suffix.lower() not in IMAGE_SUFFIXES | _DESCRIPTIONS
        and path.name != "Thumbs.db"
        and not path.name.startswith(".")
        and not path.is_dir()
    )
    if not suffixes:
        return ""
    named = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in suffixes.most_common(3))
    more = f" and {len(suffixes) - 3} other kinds" if len(suffixes) > 3 else ""
    files = counted(suffixes.total(), "file")
    were = "was" if suffixes.total() == 1 else "were"
    return f"{files} {where} {were} left out because of the suffix: {named}{more}."


_DESCRIPTIONS = {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".log"}


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of `items`, evenly spaced from first to last, so that every class folder is represented."""
    if len(items) <= most:
        return list(items)
    return [items[index * (len(items) - 1) // max(1, most - 1)] for index in range(most)]


MOST_PIXELS = 2 * 89_478_485
"""Default limit of an image's pixels: Pillow's, which a program can change."""

PIXELS_HINT = "raise the limit with --max-pixels N, which predict and eval have, or resize it"
"""Of the error for an image with more pixels."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How image files are read, apart from the preprocessing.

    Attributes:
        exif: turn an image as its EXIF orientation says; None: as the artifact's metadata says.
        bits: the depth of images of 16 bits per channel; None: as each file states.
        max_pixels: an image with more is not decoded. Memory limits it too: see `DECODING_BYTES`.
    """

    exif: bool | None = None
    bits: int | None = None
    max_pixels: int = MOST_PIXELS

    def check(self) -> None:
        """Check the values of the options.

        Raises:
            ConfigurationError: no image has so few pixels, or no image of 16 bits has this depth.
        """
        if self.max_pixels < 1:
            raise ConfigurationError(f"--max-pixels {self.max_pixels} allows no image", hint="give 1 or more")
        if self.bits is not None and not 8 < self.bits <= 16:
            raise ConfigurationError(f"--image-bits {self.bits} is not 9 to 16", hint="give 10, 12, 14 or 16")


def open_image(
    path: Path,
    read: Callable[[Image.Image], np.ndarray],
    working_bytes: Callable[[Image.Image], int] = lambda image: 0,
    max_pixels: int = MOST_PIXELS,
) -> np.ndarray:
    """Open an image file and return the result of `read`, which decodes it.

    Threads wait here until the images that are being decoded leave enough memory: see `DECODING_BYTES`.

    Args:
        path: the file.
        read: decodes the image and computes the result.
        working_bytes: the memory that `read` needs in addition to the decoded image, by the header; it refuses an
            image that needs too much work with a ValueError.
        max_pixels: see `ImageSettings`.

    Raises:
        ConfigurationError: the file is not an image, is damaged, or is too large.
    """
    budget = decoding_budget()
    with _readable(path), open_file(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        with budget.reserve(_opening_bytes(file)), _opened(file, max_pixels) as image:
            needed = size_bytes + _decoded_bytes(image, file, max_pixels) + working_bytes(image)
        with budget.reserve(needed), _opened(file, max_pixels) as image:
            return read(image)


def check_image(path: Path) -> None:
    """Check that a file is an image without decoding it; a truncated file may pass.

    Raises:
        ConfigurationError: the file is not an image, is damaged, or is too large.
    """
    budget = decoding_budget()
    with _readable(path), open_file(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        with budget.reserve(_opening_bytes(file)), _opened(file) as image:
            budget.check(size_bytes + _decoded_bytes(image, file))
            image.verify()


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image turned by an EXIF orientation, from 1 to 8; unchanged for other values."""
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = turns.get(orientation)
    return image if turn is None else image.transpose(turn)


def orientation_of(image: Image.Image) -> int:
    """The orientation in the EXIF or XMP data of a decoded image; 1, upright, if it has none that can be read.

    Pillow turns TIFF images itself, for timm too, and then says 1.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (*_DAMAGED, struct.error):  # readers of photographs ignore damaged EXIF data
        return 1
    return orientation if isinstance(orientation, int) else 1


_ORIENTATION = 0x0112
"""Its tag in EXIF."""


_FORMATS = (
    *("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"),  # JPEG includes MPO
    *("JPEG2000", "AVIF", "DIB", "TGA", "PCX", "QOI", "SGI"),
)
"""Formats of pixels that Pillow decodes itself. Of the others, EPS starts Ghostscript, WMF calls Windows, and icons
contain images of other sizes than their header says."""

_MOST_SCANS = 100
"""Of a progressive JPEG, each of which takes as long as an image. Encoders write about 10."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what Pillow raises for damaged files, and what is refused here, into errors that name the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as exc:
        reason = "its format is not supported"
        if path.suffix.lower() in (".tif", ".tiff"):
            reason += ", or its pixels are floats or have more than 16 bits; save it with 8 bits"
        raise _unreadable(path, reason) from exc
    except (_TooManyPixels, Image.DecompressionBombError) as exc:
        raise _unreadable(path, str(exc), PIXELS_HINT) from exc
    except _DAMAGED as exc:
        raise _unreadable(path, getattr(exc, "strerror", None) or str(exc)) from exc


_DAMAGED = (OSError, ValueError, SyntaxError)
"""Errors of Pillow 12 for damaged files of the suffixes above, in addition to DecompressionBombError."""


class _TooManyPixels(Exception):  # noqa: N818 - becomes an error with the file's name
    """An image has more pixels than the limit."""


@contextmanager
def _opened(file: BinaryIO, max_pixels: int = MOST_PIXELS) -> Iterator[Image.Image]:
    from PIL import Image

    file.seek(0)
    if max_pixels <= MOST_PIXELS:
        opened = Image.open(file, formats=_FORMATS)
    else:
        with (
            _PILLOW_LIMIT
        ):  # of the module; it is read while a header is, and `_decoded_bytes` checks afterwards
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                opened = Image.open(file, formats=_FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    with opened as image:
        yield image


_PILLOW_LIMIT = threading.Lock()


def _opening_bytes(file: BinaryIO) -> int:
    """The memory that opening an image takes at most: headers can be as large as the file.

    Pillow 12 keeps the tags of a TIFF three times.
    """
    size_bytes = os.fstat(file.fileno()).st_size
    file.seek(0)
    return 3 * size_bytes if file.read(2) in (b"II", b"MM") else size_bytes


def _decoded_bytes(image: Image.Image, file: BinaryIO, max_pixels: int = MOST_PIXELS) -> int:
    """The memory of the decoded image, of its decoder, and of a copy in another mode.

    Raises:
        _TooManyPixels: it has more than `max_pixels`.
        ValueError: it has too many scans.
    """
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise _TooManyPixels(
            f"it has {image.width:,} x {image.height:,} pixels, and at most {max_pixels:,} are decoded"
        )
    decoder = _DECODER_BYTES.get(image.format or "", 0)
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        file.seek(0)
        scans = _scans(file.read())
        if scans > _MOST_SCANS:
            raise ValueError(f"it has {scans:,} scans, and at most {_MOST_SCANS} are decoded")
        decoder = 6  # coefficients of 16 bits for three channels
    decoded = 1 if image.mode in ("1", "L", "P") else 4
    return pixels * (decoder + decoded + (0 if image.mode == "RGB" else 4))


_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
"""In a JPEG: the beginning of a segment. In the data of a scan, FF is followed by 00, or by D0 to D7."""


def _scans(content: bytes) -> int:
    """The number of scans of a JPEG, without those of embedded thumbnails and of what follows the image."""
    scans, position = 0, 2
    while (marker := _MARKER.search(content, position)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        position = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2]))
    return scans


_DECODER_BYTES = {"WEBP": 8, "AVIF": 6, "JPEG2000": 16, "TIFF": 4}
"""Memory per pixel that a decoder takes in addition to the image, rounded up from measurements with Pillow 12."""


DECODING_BYTES = 1_500_000_000
"""Memory for all images that this process decodes at once; a quarter of the machine's, if that is less.

An image of Pillow's maximum size takes 1.4 GB while it is converted to RGB, a photograph of 12 megapixels 100 MB.
"""


class DecodingBudget:
    """Memory for decoding, shared by all threads.

    Args:
        total: in bytes.
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    def check(self, needed: int) -> None:
        """Check that an image fits.

        Raises:
            ValueError: it needs more than all images may have together.
        """
        if needed > self._total:
            raise ValueError(
                f"decoding it takes {size_text(needed)} of memory, and images may take {size_text(self._total)}"
            )

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Wait until the memory is free, and keep it during the block. A thread must not reserve twice.

        Raises:
            ValueError: see `check`.
        """
        self.check(needed)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed)
            self._free -= needed
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()


@cache
def decoding_budget() -> DecodingBudget:
    """The budget of this process."""
    return DecodingBudget(min(DECODING_BYTES, (memory_bytes() or 4 * DECODING_BYTES) // 4))


def left_out(paths: Sequence[Path]) -> str:
    """The warning about images that cannot be read: their count and the first names."""
    named = ", ".join(path.name for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    what = (
        "1 image cannot be read and is" if len(paths) == 1 else f"{len(paths)} images cannot be read and are"
    )
    return f"{what} left out: {named}{more}."


def _unreadable(path: Path, reason: str, hint: str = "leave it out, or convert it") -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be read as an image: {' '.join(reason.split())}", hint=hint)
