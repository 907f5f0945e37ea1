"""Which files of a folder are images; told by name alone, so that a wrong folder is refused at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
)


def image_paths(folder: Path, least: int = 1) -> list[Path]:
    """The image files below `folder`, sorted.

    Raises:
        ConfigurationError: there is no such folder, or fewer than `least` images in it.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"There is no folder {folder}: a folder of images is needed.")
    paths = list_images(folder)
    if len(paths) < least:
        raise ConfigurationError(f"{folder} holds {len(paths)} images; at least {least} are needed.")
    return paths


def list_images(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted; none where there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
