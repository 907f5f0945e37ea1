"""Images whose class is known: class folders or a CSV, each image matched with a class of the artifact."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from timmx.base import counted, reporter
from timmx.errors import ConfigurationError
from timmx.inputs import IMAGE_SUFFIXES, list_images, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_COLUMNS = ("path", "label")
_NAMED = 5
"""How many names of each side an error shows."""


@dataclass(frozen=True)
class LabelledImage:
    """One image.

    Attributes:
        name: how results call it: its path below the class folders' parent, or as the CSV has it.
        truth: the number of its class.
    """

    path: Path
    name: str
    truth: int


@dataclass(frozen=True)
class Dataset:
    """Images with their classes.

    Attributes:
        origin: the folder or the CSV.
        classes: a name for every class of the artifact, by number.
        total: how many images the data has, where `limited` took some of them.
    """

    origin: Path
    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...]
    total: int

    def limited(self, most: int | None) -> Dataset:
        """At most `most` images, as equally many of each class as there are, each class's evenly spread.

        Raises:
            ConfigurationError: fewer than one.
        """
        if most is None:
            return self
        if most < 1:
            raise ConfigurationError(f"--limit {most} leaves no image", hint="give 1 or more")
        by_class: dict[int, list[LabelledImage]] = {}
        for image in self.images:
            by_class.setdefault(image.truth, []).append(image)
        quotas = dict.fromkeys(by_class, 0)
        left = min(most, len(self.images))
        while left:
            open_classes = [truth for truth, quota in quotas.items() if quota < len(by_class[truth])]
            share = max(1, left // len(open_classes))
            for truth in spread(open_classes, left):
                taken = min(share, len(by_class[truth]) - quotas[truth])
                quotas[truth] += taken
                left -= taken
        chosen = {
            id(image) for truth, quota in quotas.items() if quota for image in spread(by_class[truth], quota)
        }
        return replace(self, images=tuple(image for image in self.images if id(image) in chosen))


def read_dataset(
    data: Path,
    name: str,
    labels: Sequence[str] | None,
    num_classes: int,
    class_map: Path | None = None,
) -> Dataset:
    """Find the images and match their classes, before any of them is opened.

    A folder's subfolders are the classes, with images at any depth; those whose name begins with a dot do not count. A
    CSV has the columns path and label, paths from its own folder. Names match where they are equal. The labels of a
    CSV are all names, or else all class numbers of which none is a name too: never some this and some that. Where the
    artifact names no classes, as many folders as it has classes stand for them in timm's order.

    Args:
        data: the folder or the CSV.
        name: of the artifact, for messages.
        labels: its classes' names, None where it has none.
        num_classes: how many it has.
        class_map: a file of the data's names in the order of the classes, one a line.

    Raises:
        ConfigurationError: there is no such data, or it does not fit, with both sides.
    """
    if not data.exists():
        raise ConfigurationError(
            f"--data {data} does not exist",
            hint="name a folder with one folder per class, or a CSV of path,label",
        )
    named = _read_class_map(class_map, num_classes) if class_map else None
    rows = _folder_rows(data) if data.is_dir() else _csv_rows(data)
    if named is None and labels is None and data.is_dir():
        named = _by_order(data, name, num_classes)
    known = list(named or labels or ())
    labels_found = dict.fromkeys(label for _, _, label in rows)
    truths = {label: number for number, label in enumerate(known) if label in labels_found}
    numbers = {} if data.is_dir() else _class_numbers(labels_found, num_classes)
    unknown = labels_found.keys() - truths.keys() - numbers.keys()
    if unknown:
        raise _mismatch(data, name, unknown, len(labels_found), known, num_classes, class_map)
    unnamed = [label for label in labels_found if label not in truths]
    if unnamed and truths:
        raise _mixed(data, name, list(truths), unnamed, known, class_map)
    if unnamed:
        truths = numbers
    elif class_map is None and len(numbers) == len(truths) and numbers != truths:
        label, number = next(item for item in truths.items() if numbers[item[0]] != item[1])
        reporter().warn(
            f"The labels of {data} are taken as names of classes, not as class numbers: {label} is class {number}."
        )
    images = tuple(LabelledImage(path, shown, truths[label]) for path, shown, label in rows)
    if not data.is_dir():
        _check_there(data, images)
    classes = labels or named or [str(number) for number in range(num_classes)]
    return Dataset(data, images, tuple(classes), len(images))


Row = tuple["Path", str, str]
"""An image's path, its name in results and its label."""


def _class_numbers(labels: Iterable[str], num_classes: int) -> dict[str, int]:
    """Those of the labels that are whole numbers of classes."""
    plain = (label for label in labels if label.isascii() and label.isdecimal() and len(label) < 10)
    return {label: int(label) for label in plain if int(label) < num_classes}


def _folder_rows(folder: Path) -> list[Row]:
    folders = _class_folders(folder)
    rows = [
        (path, path.relative_to(folder).as_posix(), each.name)
        for each in folders
        for path in list_images(each)
    ]
    loose = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir() if path.is_file())
    if not rows:
        found = (
            f"{counted(loose, 'image')}, but no folders with images"
            if loose
            else "no images in its folders"
            if folders
            else "neither folders nor images"
        )
        raise ConfigurationError(
            f"--data {folder} has {found}, so no image has a known class",
            hint="put the images of each class into a folder with the name of the class, or name a CSV of path,label",
        )
    if loose:
        reporter().warn(
            f"In no class's folder, and left out: {counted(loose, 'image')} directly in {folder}."
        )
    return rows


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _by_order(folder: Path, name: str, num_classes: int) -> list[str]:
    """The folders' names as class names, in the order that timm trains with.

    Numbers in names count by their value there (`natural_key` of timm 1.0), where torchvision's ImageFolder compares
    letters.
    """
    plain = [path.name for path in _class_folders(folder)]
    if len(plain) != num_classes:
        raise ConfigurationError(
            f"{name} does not name its {num_classes} classes, and {folder} has {len(plain)} folders "
            f"({_some(plain)})",
            hint="give --class-map FILE, which names the folders in the order of the classes, one per line",
        )
    natural = sorted(plain, key=_natural_key)
    order = "" if natural == plain else " (numbers by their value, as timm has it and torchvision has not)"
    reporter().warn(
        f"{name} does not name its classes: the {num_classes} folders of {folder} are taken for them in sorted order"
        f"{order}. --class-map FILE states another."
    )
    return natural


def _natural_key(text: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", text.lower())
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _csv_rows(file: Path) -> list[Row]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        said = getattr(exc, "strerror", None) or exc
        raise ConfigurationError(
            f"--data {file} cannot be read as a CSV in UTF-8: {said}",
            hint="name a folder with one folder per class, or a CSV of path,label in UTF-8",
        ) from exc
    if not lines:
        raise ConfigurationError(
            f"--data {file} is empty", hint="add one line per image, with its path and label"
        )
    header = [cell.strip().lower() for cell in lines[0][1]]
    if set(_COLUMNS) <= set(header):
        columns = tuple(map(header.index, _COLUMNS))
        del lines[0]
    elif len(header) == 2 and header[0].endswith(tuple(IMAGE_SUFFIXES)):  # no header: an image at once
        columns = 0, 1
    else:
        raise ConfigurationError(
            f"--data {file} needs the columns path and label, but has {_some(header)}",
            hint="put path,label into its first line",
        )
    if not lines:
        raise ConfigurationError(
            f"--data {file} has a header, but no images",
            hint="add one line per image, with its path and label",
        )
    rows = []
    for number, cells in lines:
        values = [cells[column].strip() if column < len(cells) else "" for column in columns]
        if not all(values):
            missing = _COLUMNS[values.index("")]
            raise ConfigurationError(
                f"--data {file} has no {missing} in line {number}", hint=f"add the {missing} to that line"
            )
        rows.append((file.parent / values[0], values[0], values[1]))
    return rows


def _check_there(file: Path, images: Sequence[LabelledImage]) -> None:
    missing = [image.name for image in images if not image.path.is_file()]
    if missing:
        raise ConfigurationError(
            f"--data {file} names {counted(len(images), 'image')}, of which {len(missing)} do not exist: "
            f"{_some(missing, 3)}",
            hint=f"give paths relative to the folder of the CSV ({file.parent.resolve()})",
        )


def _read_class_map(file: Path, num_classes: int) -> list[str]:
    """The data's names in the order of the classes, as the `--class-map` of timm's validate.py has them."""
    try:
        names = [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as exc:
        said = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(
            f"--class-map {file} cannot be read: {said}",
            hint="name a text file in UTF-8 with the class names, one per line",
        ) from exc
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigurationError(
            f"--class-map {file} has names more than once: {_some(twice)}",
            hint="give each class its own name",
        )
    if len(names) != num_classes:
        raise ConfigurationError(
            f"--class-map {file} has {counted(len(names), 'name')} ({_some(names)}), and the file has "
            f"{counted(num_classes, 'class', 'classes')}",
            hint="write one name per line for every class, in their order",
        )
    return names


def _mismatch(
    data: Path,
    name: str,
    unknown: Iterable[str],
    found: int,
    known: Sequence[str],
    num_classes: int,
    class_map: Path | None,
) -> ConfigurationError:
    unknown = sorted(unknown, key=_natural_key)
    kind = "folder name" if data.is_dir() else "label"
    what = (
        f"{data} has {counted(found, kind)}; {name} has no class for {len(unknown)} of them: {_some(unknown)}"
    )
    if class_map:
        return ConfigurationError(
            f"{what}; the {num_classes} names of --class-map {class_map} are {_some(known)}",
            hint=f"correct the names in {class_map}",
        )
    classes = (
        f"its {num_classes} classes are {_some(known)}" if known else f"{name} does not name its classes"
    )
    numbers = "" if data.is_dir() else f", or use class numbers from 0 to {num_classes - 1} in the CSV"
    return ConfigurationError(
        f"{what}; {classes}",
        hint=f"give --class-map FILE, with the data's names in the order of the classes, one per line{numbers}",
    )


def _mixed(
    data: Path,
    name: str,
    named: Sequence[str],
    unnamed: Sequence[str],
    known: Sequence[str],
    class_map: Path | None,
) -> ConfigurationError:
    """Integers, of which some are names too: the same label would be one class or another."""
    named, unnamed = sorted(named, key=_natural_key), sorted(unnamed, key=_natural_key)
    owner = f"--class-map {class_map}" if class_map else name
    fix = (
        f"correct {class_map}"
        if class_map
        else "give --class-map FILE, with the data's names in the order of the classes"
    )
    return ConfigurationError(
        f"{data} has labels that are names of classes in {owner} ({_some(named)}) and labels that can only be class "
        f"numbers ({_some(unnamed)}); the {len(known)} names are {_some(known)}",
        hint=f"write a name in every line, or only numbers that are not names, or {fix}",
    )


def _some(names: Sequence[str], most: int = _NAMED) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
