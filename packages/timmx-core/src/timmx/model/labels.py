"""Class names: from a file, from Python, or from a model's own configuration. Light: needs no torch."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import counted, reporter
from timmx.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def read_labels(source: str | os.PathLike[str] | Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of the classes.

    A file holds one name a line, a JSON list, or a JSON map of class number to name (`{"0": "cat", ...}`).
    It is UTF-8, with or without a byte order mark (UTF-16 with one), with any line ends; spaces around a name
    and blank lines do not count (a name that is missing shows in the count). A name that several classes have,
    as "crane" in lists of ImageNet's, gets the class number behind it, with a warning: names tell classes apart.

    Args:
        source: a path, or the names themselves.

    Raises:
        ConfigurationError: unreadable, empty, a blank name in JSON, or class numbers other than 0..n-1.
    """
    if not isinstance(source, (str, os.PathLike)):
        return check_names(source, "labels")
    path = Path(source)
    where = f"--labels {path}"
    try:
        data = path.read_bytes()
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
    """Names without spaces around them, each once; refuses what cannot be a list of class names.

    Raises:
        ConfigurationError: empty, or a name that is blank or not text.
    """
    checked: list[str] = []
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise ConfigurationError(
                f"{where}: the name of class {number} is {name!r}, which is not text",
                hint="give every class a name that is text",
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
        reporter().warn(f"{where}: several classes are called {named}; their class numbers are put behind.")
    return tuple(f"{name} ({number})" if name in repeated else name for number, name in enumerate(checked))


def check_count(labels: Sequence[str], num_classes: int) -> None:
    """Refuse names that do not number the model's classes.

    Raises:
        ConfigurationError: another number of names than classes.
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
    """The names in a timm configuration, or None and why they cannot be used (None where it has none)."""
    names = cfg.get("label_names") or cfg.get("labels")
    if not names:
        return None, None
    if len(names) != num_classes:
        if num_classes == 0:
            return None, None
        return None, (
            f"The model's {len(names)} label names are left out: it has {counted(num_classes, 'class', 'classes')}. "
            "--labels FILE gives others."
        )
    try:
        return check_names(_in_order(names, "label names"), "The model's label names"), None
    except ConfigurationError as exc:
        return None, f"{exc.message}. They are left out; --labels FILE gives others."


def _parse_json(text: str, path: Path, where: str) -> list[Any] | dict[str, Any] | None:
    """The JSON in a file; None where it is a plain list of lines."""
    is_json = path.suffix.lower() == ".json"
    if not is_json and not text.lstrip().startswith(("[", "{")):
        return None
    try:
        parsed = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as exc:
        if not is_json and "\n" in text.strip() and not text.rstrip().endswith(("]", "}")):
            return None  # a plain list whose first name happens to begin with a bracket
        raise ConfigurationError(
            f"{where} is not valid JSON: {exc.msg} in line {exc.lineno}, column {exc.colno}",
            hint="write a JSON list of names, or one name per line in a .txt file",
        ) from exc
    except ValueError as exc:
        raise ConfigurationError(f"{where}: {exc}", hint="give each class once") from exc
    if not isinstance(parsed, (list, dict)):
        raise ConfigurationError(
            f"{where} holds neither a JSON list of names nor a JSON map of class number to name",
            hint='write a list such as ["cat", ...], or a map such as {"0": "cat", ...}',
        )
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else ()
    if repeated:
        raise ValueError(f"class {min(repeated)!r} is given twice")
    return dict(pairs)


def _in_order(names: Any, where: str) -> Iterable[Any]:
    """A list as it is; the names of an id-to-name map by class number."""
    if not isinstance(names, dict):
        return names
    if any(isinstance(value, int) for value in names.values()):
        raise ConfigurationError(
            f"{where} maps names to numbers",
            hint='write a map of class number to name: {"0": "cat", ...}',
        )
    try:
        by_number = {int(key): value for key, value in names.items()}
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(
            f"{where}: a key is not a class number ({exc})",
            hint='write a map of class number to name: {"0": "cat", ...}',
        ) from exc
    wrong = sorted(set(range(len(names))) ^ set(by_number))
    if wrong:
        raise ConfigurationError(
            f"{where}: the class numbers must be 0 to {len(names) - 1}, each once",
            hint=f"check class number {wrong[0]}",
        )
    return [by_number[number] for number in range(len(names))]
