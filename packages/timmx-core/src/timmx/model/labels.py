"""Class names from a file, from Python, or from a model's configuration. Does not import torch."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import brief, check_path, counted, is_utf8, parse_json, read_file, reporter
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LARGEST_LABELS = 16 * 10**6
"""In bytes. The names and descriptions of ImageNet-22k's classes have 3 MB."""


def read_labels(source: str | os.PathLike[str] | Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of the classes.

    A file holds one name per line, a JSON list, or a JSON map of class index to name (`{"0": "cat", ...}`).
    It is UTF-8, with or without a byte order mark (UTF-16 with one), with any line ends. Spaces around a name
    and blank lines are ignored. If several classes have the same name, such as "crane" in lists of ImageNet, the
    class index is appended to it, with a warning, so that names are unique.

    Args:
        source: a path, or the names themselves.

    Raises:
        ConfigurationError: the file cannot be read or is empty, a name in JSON is blank, or class indices are not
            0 to n-1.
    """
    if not isinstance(source, (str, os.PathLike)):
        return check_names(source, "labels")
    path = Path(source)
    where = f"--labels {path}"
    check_path(path, "--labels")
    try:
        data = read_file(path, _LARGEST_LABELS)
    except OSError as exc:
        raise ConfigurationError(
            f"{where} cannot be read: {exc.strerror or exc}", hint="check the path and its permissions"
        ) from exc
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as exc:
        raise ConfigurationError(
            f"{where} is not UTF-8 text (byte {exc.start})", hint="save it as UTF-8"
        ) from exc
    parsed = _parse_json(text, path, where)
    if parsed is None:
        parsed = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    return check_names(_in_order(parsed, where), where)


def check_names(names: Iterable[Any], where: str) -> tuple[str, ...]:
    """Class names without spaces around them, made unique by their class index.

    Args:
        names: in the order of the classes.
        where: their source, for messages.

    Raises:
        ConfigurationError: there are none, or one is blank or not text.
    """
    checked: list[str] = []
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise ConfigurationError(
                f"{where}: the name of class {number} is {brief(name)}, which is not text",
                hint="give every class a name that is text",
            )
        if not is_utf8(name):
            raise ConfigurationError(
                f"{where}: the name of class {number} is {brief(name)}, which is not UTF-8 text",
                hint="save the names as UTF-8",
            )
        name = name.strip()
        if not name:
            raise ConfigurationError(
                f"{where}: class {number} has a blank name", hint="give every class a name"
            )
        checked.append(name)
    if not checked:
        raise ConfigurationError(f"{where} has no names", hint="give one name per class")
    repeated = {name for name, count in Counter(checked).items() if count > 1}
    if repeated:
        named = ", ".join(repr(name) for name in sorted(repeated)[:3])
        reporter().warn(f"{where}: several classes are called {named}; their class indices are appended.")
    return tuple(f"{name} ({number})" if name in repeated else name for number, name in enumerate(checked))


def check_count(labels: Sequence[str], num_classes: int) -> None:
    """Check that there is one name per class.

    Raises:
        ConfigurationError: the number of names differs from the number of classes.
    """
    if len(labels) == num_classes:
        return
    if num_classes == 0:
        raise ConfigurationError("--labels names classes, but the model has none", hint="leave --labels out")
    raise ConfigurationError(
        f"--labels has {counted(len(labels), 'name')}, but the model has {counted(num_classes, 'class', 'classes')}",
        hint=f"give {counted(num_classes, 'name')}, or set --num-classes {len(labels)}",
    )


def labels_of_config(cfg: dict[str, Any], num_classes: int) -> tuple[tuple[str, ...] | None, str | None]:
    """The names in a timm configuration, or None and a note why they cannot be used (None if it has none)."""
    names = cfg.get("label_names") or cfg.get("labels")
    if not names:
        return None, None
    if len(names) != num_classes:
        if num_classes == 0:
            return None, None
        return None, (
            f"The model's {len(names)} label names are left out: it has {counted(num_classes, 'class', 'classes')}. "
            "Use --labels FILE for others."
        )
    try:
        return check_names(_in_order(names, "label names"), "The model's label names"), None
    except ConfigurationError as exc:
        return None, f"{exc.message}. They are left out; use --labels FILE for others."


def _parse_json(text: str, path: Path, where: str) -> list[Any] | dict[str, Any] | None:
    """The JSON in a file; None if it is a plain list of lines."""
    is_json = path.suffix.lower() == ".json"
    if not is_json and not text.lstrip().startswith(("[", "{")):
        return None
    try:
        parsed = parse_json(text)
    except json.JSONDecodeError as exc:
        if not is_json and "\n" in text.strip() and not text.rstrip().endswith(("]", "}")):
            return None  # a plain list whose first name starts with a bracket
        raise ConfigurationError(
            f"{where} is not valid JSON: {exc.msg} in line {exc.lineno}, column {exc.colno}",
            hint="write a JSON list of names, or one name per line in a .txt file",
        ) from exc
    except ValueError as exc:
        raise ConfigurationError(
            f"{where} is not valid JSON: {exc}", hint="write a JSON list of names, each class once"
        ) from exc
    if not isinstance(parsed, (list, dict)):
        raise ConfigurationError(
            f"{where} holds neither a JSON list of names nor a JSON map of class index to name",
            hint='write a list such as ["cat", ...], or a map such as {"0": "cat", ...}',
        )
    return parsed


def _in_order(names: Any, where: str) -> Iterable[Any]:
    """The names of a list, or of a map of class index to name, in the order of the classes."""
    if not isinstance(names, dict):
        return names
    if any(isinstance(value, int) for value in names.values()):
        raise ConfigurationError(
            f"{where} maps names to numbers",
            hint='write a map of class index to name: {"0": "cat", ...}',
        )
    try:
        by_number = {int(key): value for key, value in names.items()}
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(
            f"{where}: a key is not a class index: {exc}",
            hint='write a map of class index to name: {"0": "cat", ...}',
        ) from exc
    mismatch = sorted(set(range(len(names))) ^ set(by_number))
    if mismatch:
        raise ConfigurationError(
            f"{where}: the class indices must be 0 to {len(names) - 1}, each once",
            hint=f"check class index {mismatch[0]}",
        )
    return [by_number[number] for number in range(len(names))]
