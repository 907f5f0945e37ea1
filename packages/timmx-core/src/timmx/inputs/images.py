"""Image files: listing those of a folder by suffix, opening and checking one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from timmx.base import counted
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from PIL import Image

Item = TypeVar("Item")

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
)


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
    """The image files below `folder`, sorted; empty if the folder does not exist."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of `items`, evenly spaced from first to last, so that every class folder is represented."""
    if len(items) <= most:
        return list(items)
    return [items[index * (len(items) - 1) // max(1, most - 1)] for index in range(most)]


def open_image(path: Path, read: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Open an image file and return the result of `read`, which decodes it.

    Raises:
        ConfigurationError: the file is not an image, or is damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return read(image)
    except (*_DAMAGED, Image.DecompressionBombError) as exc:
        raise _unreadable(path, exc) from exc


_DAMAGED = (OSError, ValueError, SyntaxError)
"""Errors of Pillow 12 for damaged files of the suffixes above, in addition to DecompressionBombError."""


def check_image(path: Path) -> None:
    """Check that a file is an image without decoding it; a truncated file may pass.

    Raises:
        ConfigurationError: the file is not an image, or is damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()
    except (*_DAMAGED, Image.DecompressionBombError) as exc:
        raise _unreadable(path, exc) from exc


def left_out(paths: Sequence[Path]) -> str:
    """The warning about images that cannot be read: their count and the first names."""
    named = ", ".join(path.name for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    what = (
        "1 image cannot be read and is" if len(paths) == 1 else f"{len(paths)} images cannot be read and are"
    )
    return f"{what} left out: {named}{more}."


def _unreadable(path: Path, exc: BaseException) -> ConfigurationError:
    reason = " ".join(str(exc).split())
    return ConfigurationError(
        f"{path} cannot be read as an image: {reason}", hint="leave it out, or convert it"
    )
