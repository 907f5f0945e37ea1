"""The labels of images that can have several, and of images for a file with one class."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from timmx.base import counted, reporter
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEPARATOR = "|"
"""Between the labels of an image in a CSV."""

Row = tuple["Path", str, tuple[str, ...]]
"""An image's path, its name in results and its labels."""

_ONE, _ZERO = "1", "0"


def natural_key(text: str) -> list[tuple[bool, int, str]]:
    """The order of folders in timm, which sorts numbers in names by value (`natural_key` of timm 1.0)."""
    parts = re.split(r"(\d+)", text.lower())
    return [(not part.isdecimal(), int(part[-4000:]) if part.isdecimal() else 0, part) for part in parts]


def join_labels(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """One row per image, in the order of their first rows, with the labels of all its rows.

    Args:
        rows: of a CSV; a label is several, separated by `|`, unless it is a name as a whole; an empty one is none.
        names: of the classes.
    """
    known = set(names)
    joined: dict[str, tuple[Path, dict[str, None]]] = {}
    for path, shown, cells in rows:
        _, labels = joined.setdefault(shown, (path, {}))
        for cell in cells:
            parts = [cell] if cell in known else [part.strip() for part in cell.split(SEPARATOR)]
            labels |= dict.fromkeys(filter(None, parts))
    return [(path, shown, tuple(labels)) for shown, (path, labels) in joined.items()]


def choose_class(data: Path, name: str, rows: Sequence[Row], class_name: str | None) -> str:
    """The label that stands for the only class of a file; all other labels stand for images without it.

    It is the class's name, or in a CSV of 1 and 0 the 1, or without a name the second of two folders, as in timm and
    torchvision, which number folders in this order.

    Args:
        data: the folder or the CSV.
        name: of the file, for messages.
        rows: of all images.
        class_name: its name in the data; None if it is unknown.

    Raises:
        ConfigurationError: none of these applies, or two do.
    """
    labels = {label for *_, own in rows for label in own}
    folder = data.is_dir()
    numbers = not folder and bool(labels) and labels <= {_ONE, _ZERO}
    if numbers and class_name == _ZERO:
        raise ConfigurationError(
            f"{data} has the labels {', '.join(sorted(labels))}, and {name} has one class, called 0: it is unclear "
            "which of them stands for it",
            hint="write another name for the class, and give it with --class-map FILE",
        )
    if class_name in labels:
        others = sorted(labels - {class_name, _ZERO})
        if others:
            kind = "folder" if folder else "label"
            reporter().warn(
                f"{name} has one class, {class_name}: the images of {counted(len(others), f'other {kind}')} "
                f"({', '.join(others[:5])}{', ...' if len(others) > 5 else ''}) count as images without it."
            )
        assert class_name is not None
        return class_name
    if numbers:
        return _ONE
    if class_name is None and folder and len(labels) == 2:
        first, second = sorted(labels, key=natural_key)
        reporter().warn(
            f"{name} does not name its class: {second}, the second folder of {data}, is used as the class, and {first} "
            "as images without it. Use --class-map FILE for the other one."
        )
        return second
    raise ConfigurationError(
        f"{name} has one class, {class_name or 'without a name'}, and {data} has the labels "
        f"{', '.join(sorted(labels)[:5]) or 'of no image'}",
        hint="give --class-map FILE with the data's name of the class"
        + ("" if folder else ", or write 1 for images of the class and 0 for others"),
    )
