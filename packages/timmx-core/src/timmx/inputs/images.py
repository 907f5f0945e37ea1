"""Images of a folder: which files they are, told by name alone, and how one is opened."""

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

    Raises:
        ConfigurationError: there is no such folder, or fewer than `least` images in it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {folder}", hint="name a folder of images")
    paths = list_images(folder)
    if len(paths) < least:
        raise ConfigurationError(
            f"{folder} holds {counted(len(paths), 'image')}; at least {least} are needed",
            hint="name a folder with more images",
        )
    return paths


def list_images(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of `items`, the first and the last among them, evenly spread: every class folder has its share."""
    if len(items) <= most:
        return list(items)
    return [items[index * (len(items) - 1) // max(1, most - 1)] for index in range(most)]


def open_image(path: Path, read: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """What `read` makes of an image file, which is decoded while it reads.

    Raises:
        ConfigurationError: the file is no image, or is damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return read(image)
    except (*_DAMAGED, Image.DecompressionBombError) as exc:
        raise _unreadable(path, exc) from exc


_DAMAGED = (OSError, ValueError, SyntaxError)
"""What Pillow 12 raises for damaged files of the suffixes above, beside its DecompressionBombError."""


def check_image(path: Path) -> None:
    """Refuse what is plainly no image, without decoding it: a file that is cut off may pass.

    Raises:
        ConfigurationError: the file is no image, or is damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()
    except (*_DAMAGED, Image.DecompressionBombError) as exc:
        raise _unreadable(path, exc) from exc


def left_out(paths: Sequence[Path]) -> str:
    """The warning that these images cannot be read: their count, and the names of the first."""
    named = ", ".join(path.name for path in paths[:3])
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    what = (
        "1 image cannot be read and is" if len(paths) == 1 else f"{len(paths)} images cannot be read and are"
    )
    return f"{what} left out: {named}{more}."


def _unreadable(path: Path, exc: BaseException) -> ConfigurationError:
    return ConfigurationError(f"{path} cannot be read as an image: {' '.join(str(exc).split())}")
