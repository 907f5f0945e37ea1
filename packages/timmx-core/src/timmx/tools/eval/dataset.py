"""Reads labeled images, from class folders or a CSV, and matches their labels with the artifact's classes."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from timmx.base import check_path, counted, looks_like_utf16, open_file, read_file, reporter, size_text
from timmx.errors import ConfigurationError
from timmx.inputs import IMAGE_SUFFIXES, list_images, other_files, spread
from timmx.tools.eval.labels import SEPARATOR, Row, choose_class, join_labels, natural_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

_COLUMNS = ("path", "label")
_LARGEST_CLASS_MAP = 16 * 10**6
_NAMED = 5
"""Maximum number of names from each side in an error."""


@dataclass(frozen=True)
class LabelledImage:
    """One image.

    Attributes:
        name: for results: its path relative to the data folder, or as in the CSV.
        truths: indices of its classes, ascending; one, unless classes do not exclude each other.
    """

    path: Path
    name: str
    truths: tuple[int, ...]

    @property
    def truth(self) -> int:
        """Index of its class, where classes exclude each other."""
        (truth,) = self.truths
        return truth


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images with their classes.

    Attributes:
        origin: the folder or the CSV.
        classes: the name of every class of the artifact, by index.
        total: number of images in the data, of which `limited` may have selected some.
        exclusive: each image has one class; otherwise any number of them.
    """

    origin: Path
    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...]
    total: int
    exclusive: bool = True

    def limited(self, most: int | None) -> Dataset:
        """Select at most `most` images, balanced over the classes and evenly spread within each class.

        Raises:
            ConfigurationError: `most` is less than 1.
        """
        if most is None:
            return self
        if most < 1:
            raise ConfigurationError(f"--limit {most} leaves no image", hint="give 1 or more")
        by_class: dict[tuple[int, ...], list[LabelledImage]] = {}  # of several, the first one counts
        for image in self.images:
            by_class.setdefault(image.truths[:1], []).append(image)
        quotas = dict.fromkeys(by_class, 0)
        remaining = min(most, len(self.images))
        while remaining:
            open_classes = [truth for truth, quota in quotas.items() if quota < len(by_class[truth])]
            share = max(1, remaining // len(open_classes))
            for truth in spread(open_classes, remaining):
                count = min(share, len(by_class[truth]) - quotas[truth])
                quotas[truth] += count
                remaining -= count
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
    *,
    exclusive: bool = True,
) -> Dataset:
    """List the images and match their labels with classes, before any image is opened.

    The subfolders of a folder are the classes, with images at any depth; names that begin with a dot are ignored. A
    CSV has the columns path and label, with paths relative to its folder. Names match if they are equal. The labels
    of a CSV are either all class names or all class indices, none of which is also a name. If the artifact has no
    class names, and there are as many folders as classes, the folders are the classes in timm's order.

    If classes do not exclude each other, an image of a CSV can have several labels, separated by `|` or in several
    rows, or an empty one. For a file with one class, see `choose_class`.

    Args:
        data: the folder or the CSV.
        name: of the artifact, for messages.
        labels: its class names; None if it has none.
        num_classes: its number of classes.
        class_map: a file with the data's class names in class order, one per line.
        exclusive: each image has one of the classes.

    Raises:
        ConfigurationError: the data does not exist, or its labels do not match the classes.
    """
    check_path(data, "--data")
    if class_map is not None:
        check_path(class_map, "--class-map")
    if not data.exists():
        raise ConfigurationError(
            f"--data {data} does not exist",
            hint="name a folder with one folder per class, or a CSV of path,label",
        )
    mapping = _read_class_map(class_map, num_classes) if class_map else None
    rows = _folder_rows(data) if data.is_dir() else _csv_rows(data, unlabeled=not exclusive)
    one_class = not exclusive and num_classes == 1
    if mapping is None and labels is None and data.is_dir() and not one_class:
        mapping = _by_order(data, name, num_classes)
    names = list(mapping or labels or ())
    if data.is_dir():
        pass
    elif exclusive:
        _check_one_label(data, name, rows)
    else:
        rows = join_labels(rows, names)
    if one_class:
        chosen = choose_class(data, name, rows, names[0] if names else None)
        rows = [(path, shown, tuple(label for label in own if label == chosen)) for path, shown, own in rows]
        names = [chosen]
    if not any(own for *_, own in rows):
        raise ConfigurationError(
            f"no image of {data} has a label", hint="add the labels of at least one image"
        )
    data_labels = dict.fromkeys(label for *_, own in rows for label in own)
    truths = {label: number for number, label in enumerate(names) if label in data_labels}
    numbers = {} if data.is_dir() else _class_numbers(data_labels, num_classes)
    unknown = data_labels.keys() - truths.keys() - numbers.keys()
    known = {*names, *map(str, range(num_classes))}
    if exclusive and unknown and all(set(label.split(SEPARATOR)) <= known for label in unknown):
        raise _exclusive(data, name, f"labels such as {min(unknown)}")
    if unknown:
        raise _mismatch(data, name, unknown, len(data_labels), names, num_classes, class_map)
    unnamed = [label for label in data_labels if label not in truths]
    if unnamed and truths:
        raise _mixed(data, name, list(truths), unnamed, names, class_map)
    if unnamed:
        truths = numbers
    elif class_map is None and len(numbers) == len(truths) and numbers != truths:
        label, number = next(item for item in truths.items() if numbers[item[0]] != item[1])
        reporter().warn(
            f"The labels of {data} are read as class names, not as class indices: {label} is class {number}."
        )
    images = tuple(
        LabelledImage(path, shown, tuple(sorted({truths[label] for label in own})))
        for path, shown, own in rows
    )
    if not data.is_dir():
        _check_exist(data, images)
    classes = labels or mapping or [str(number) for number in range(num_classes)]
    return Dataset(origin=data, images=images, classes=tuple(classes), total=len(images), exclusive=exclusive)


def _check_one_label(data: Path, name: str, rows: Sequence[Row]) -> None:
    """Check that no image of a CSV has two labels."""
    own: dict[str, tuple[str, ...]] = {}
    for _, shown, labels in rows:
        if own.setdefault(shown, labels) != labels:
            raise _exclusive(data, name, f"several labels for {shown}")


def _exclusive(data: Path, name: str, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{data} has {found}, but the classes of {name} exclude each other",
        hint="export the model with --multi-label, or leave one label per image",
    )


def _class_numbers(labels: Iterable[str], num_classes: int) -> dict[str, int]:
    """The labels that are class indices, with the index as an integer."""
    plain = (label for label in labels if label.isascii() and label.isdecimal() and len(label) < 10)
    return {label: int(label) for label in plain if int(label) < num_classes}


def _folder_rows(folder: Path) -> list[Row]:
    folders = _class_folders(folder)
    rows: list[Row] = [
        (path, path.relative_to(folder).as_posix(), (each.name,))
        for each in folders
        for path in list_images(each)
    ]
    loose = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir() if path.is_file())
    if not rows:
        content = (
            f"{counted(loose, 'image')}, but no folders with images"
            if loose
            else "no images in its folders"
            if folders
            else "neither folders nor images"
        )
        raise ConfigurationError(
            f"--data {folder} has {content}, so no image has a known class",
            hint="put the images of each class into a folder with the name of the class, or name a CSV of path,label",
        )
    if others := other_files(folder):
        reporter().warn(others)
    if loose:
        reporter().warn(
            f"{counted(loose, 'image')} directly in {folder}, outside the class folders, left out."
        )
    return rows


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _by_order(folder: Path, name: str, num_classes: int) -> list[str]:
    """Folder names as class names, in the order that timm uses for training.

    timm sorts numbers in names by value (`natural_key` of timm 1.0); torchvision's ImageFolder sorts as text.
    """
    plain = [path.name for path in _class_folders(folder)]
    if len(plain) != num_classes:
        raise ConfigurationError(
            f"{name} does not name its {num_classes} classes, and {folder} has {len(plain)} folders "
            f"({_some(plain)})",
            hint="give --class-map FILE, which names the folders in class order, one per line",
        )
    natural = sorted(plain, key=natural_key)
    order = "" if natural == plain else " (numbers by value, as in timm, unlike torchvision)"
    reporter().warn(
        f"{name} does not name its classes: the {num_classes} folders of {folder} are used as the classes in sorted "
        f"order{order}. Use --class-map FILE for another order."
    )
    return natural


def _csv_rows(file: Path, unlabeled: bool = False) -> list[Row]:
    """The rows of a CSV; with `unlabeled` a label may be empty."""
    try:
        with open_file(file) as stream:
            if looks_like_utf16(stream.read(1024)):
                raise ConfigurationError(
                    f"--data {file} is a CSV in UTF-16, not in UTF-8",
                    hint='save it as UTF-8, in Excel as "CSV UTF-8"',
                )
            stream.seek(0)
            reader = csv.reader(_lines(stream))
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConfigurationError(
            f"--data {file} cannot be read as a CSV in UTF-8: {reason}",
            hint="name a folder with one folder per class, or a CSV of path,label in UTF-8",
        ) from exc
    if not lines:
        raise ConfigurationError(
            f"--data {file} is empty", hint="add one line per image, with its path and label"
        )
    if len(lines[0][1]) < 3 and (stated := re.match(r"sep=(.?)", lines[0][1][0].strip())):
        if stated[1] not in ("", ","):  # `sep=,` is split at its comma
            raise _separated(file, stated[1])
        del lines[0]
    header = [cell.strip().lower() for cell in lines[0][1]] if lines else []
    if set(_COLUMNS) <= set(header):
        columns = tuple(map(header.index, _COLUMNS))
        twice = next((name for name in _COLUMNS if header.count(name) > 1), None)
        if twice:
            raise ConfigurationError(f"--data {file} has several columns {twice}", hint="leave one of them")
        del lines[0]
    elif len(header) == 2 and header[0].endswith(tuple(IMAGE_SUFFIXES)):  # no header
        columns = 0, 1
    elif separator := next((each for each in _SEPARATORS if each in header[0]), None):
        raise _separated(file, separator)
    elif len(header) == 1 and _SPACED.match(header[0]):
        raise ConfigurationError(
            f"--data {file} is separated by spaces, not by commas", hint="save it with commas: path,label"
        )
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
    rows: list[Row] = []
    for number, cells in lines:
        if any(cell.strip() for cell in cells[len(header) :]):
            raise ConfigurationError(
                f"--data {file} has {len(cells)} cells in line {number}, more than its first line",
                hint='put a label with a comma into double quotes; several labels are separated by |: "a.png,cat|dog"',
            )
        if len(cells) == 1 and (separator := next((each for each in _SEPARATORS if each in cells[0]), None)):
            raise _separated(file, separator, f"in line {number} ")
        values = [cells[column].strip() if column < len(cells) else "" for column in columns]
        if not values[0] or not (values[1] or unlabeled):
            missing = _COLUMNS[values.index("")]
            raise ConfigurationError(
                f"--data {file} has no {missing} in line {number}", hint=f"add the {missing} to that line"
            )
        rows.append((file.parent / values[0], values[0], (values[1],)))
    return rows


def _separated(file: Path, separator: str, where: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"--data {file} is {where}separated by {_SEPARATORS.get(separator, separator)}, not by commas",
        hint="save it with commas: path,label",
    )


_SPACED = re.compile(
    rf"(path|filename|file|image|.*({'|'.join(map(re.escape, sorted(IMAGE_SUFFIXES)))}))\s+\S"
)
"""The first line of a table with spaces between its columns, in lower case."""

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_LARGEST_CSV = 250 * 10**6
_MOST_LINES = 10**7
_LONGEST_LINE = 2**17
"""Limits of a CSV: its size in bytes, its lines, which take about 400 bytes each, and their lengths."""


def _lines(stream: BinaryIO) -> Iterator[str]:
    """The lines of a CSV in UTF-8.

    Raises:
        csv.Error: the file is too large, or a line is too long.
    """
    size = os.fstat(stream.fileno()).st_size
    if size > _LARGEST_CSV:
        raise csv.Error(f"it has {size_text(size)}, and at most {size_text(_LARGEST_CSV)} are read")
    text = io.TextIOWrapper(stream, newline="", encoding="utf-8-sig")
    for number in count(1):
        line = text.readline(_LONGEST_LINE + 1)
        if not line:
            return
        if len(line) > _LONGEST_LINE:
            raise csv.Error(f"line {number} has more than {_LONGEST_LINE:,} characters")
        if number > _MOST_LINES:
            raise csv.Error(f"it has more than {_MOST_LINES:,} lines")
        yield line


def _check_exist(file: Path, images: Sequence[LabelledImage]) -> None:
    missing = [image.name for image in images if not _may_be_image(image.path)]
    if missing:
        hint = f"give paths relative to the folder of the CSV ({file.parent.resolve()})"
        if os.sep == "/" and any(_WINDOWS.match(name) for name in missing):
            hint += "; C:\\... and \\\\server\\... are paths of Windows, and this system has no drives"
        elif os.sep == "/" and any("\\" in name for name in missing):
            hint = "write / instead of \\ in its paths, as this system does"
        raise ConfigurationError(
            f"--data {file} names {counted(len(images), 'image')}, of which {len(missing)} do not exist: "
            f"{_some(missing, 3)}",
            hint=hint,
        )


_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""An absolute path of Windows."""


def _may_be_image(path: Path) -> bool:
    """Whether something other than a folder exists there; what is not a file is reported as an unreadable image."""
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # such as a name that is too long
        return False


def _read_class_map(file: Path, num_classes: int) -> list[str]:
    """The data's class names in class order, in the format of `--class-map` of timm's validate.py."""
    try:
        text = read_file(file, _LARGEST_CLASS_MAP).decode("utf-8-sig")
        names = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        if isinstance(exc, UnicodeDecodeError) and looks_like_utf16(exc.object):
            reason = "it is UTF-16, not UTF-8"
        raise ConfigurationError(
            f"--class-map {file} cannot be read: {reason}",
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
    count: int,
    names: Sequence[str],
    num_classes: int,
    class_map: Path | None,
) -> ConfigurationError:
    unknown = sorted(unknown, key=natural_key)
    kind = "folder name" if data.is_dir() else "label"
    what = (
        f"{data} has {counted(count, kind)}; {name} has no class for {len(unknown)} of them: {_some(unknown)}"
    )
    if class_map:
        return ConfigurationError(
            f"{what}; the {num_classes} names of --class-map {class_map} are {_some(names)}",
            hint=f"correct the names in {class_map}",
        )
    known = {*names, *map(str, range(num_classes))}
    if not data.is_dir() and any(set(re.split(r"\s*[;,/]\s*|\s+", label)) <= known for label in unknown):
        return ConfigurationError(what, hint=f"separate several labels of an image with {SEPARATOR}")
    classes = (
        f"its {num_classes} classes are {_some(names)}" if names else f"{name} does not name its classes"
    )
    numbers = "" if data.is_dir() else f", or use class indices from 0 to {num_classes - 1} in the CSV"
    return ConfigurationError(
        f"{what}; {classes}",
        hint=f"give --class-map FILE, with the data's names in class order, one per line{numbers}",
    )


def _mixed(
    data: Path,
    name: str,
    named: Sequence[str],
    unnamed: Sequence[str],
    names: Sequence[str],
    class_map: Path | None,
) -> ConfigurationError:
    """The error for integer labels of which some are also class names, so that they are ambiguous."""
    named, unnamed = sorted(named, key=natural_key), sorted(unnamed, key=natural_key)
    owner = f"--class-map {class_map}" if class_map else name
    fix = (
        f"correct {class_map}"
        if class_map
        else "give --class-map FILE, with the data's names in the order of the classes"
    )
    return ConfigurationError(
        f"{data} has labels that are names of classes in {owner} ({_some(named)}) and labels that can only be class "
        f"indices ({_some(unnamed)}); the {len(names)} names are {_some(names)}",
        hint=f"write a name in every line, or only numbers that are not names, or {fix}",
    )


def _some(names: Sequence[str], most: int = _NAMED) -> str:
    """The first names, and the number of further ones."""
    shown = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
