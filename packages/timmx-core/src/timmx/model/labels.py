"""Class names from a file, from Python, or from a model's configuration. Does not import torch."""

from __future__ import annotations

import ast
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import brief, check_path, counted, is_utf8, looks_like_utf16, parse_json, read_file, reporter
from timmx.contract import is_integer
from timmx.errors import ConfigurationError
from timmx.model.label_lines import AS_LIST, names_in_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LARGEST_LABELS = 16 * 10**6
"""In bytes. The names and descriptions of ImageNet-22k's classes have 3 MB."""


def read_labels(source: str | os.PathLike[str] | Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of the classes.

    A file holds one name per line, a JSON list, or a JSON map of class index to name (`{"0": "cat", ...}`). These are
    read too, with a warning that says so: a map of name to class index; ImageNet's `imagenet_class_index.json`; the
    config.json of transformers or timm; a Python list or dict; lines or CSV rows of class index and name in any order,
    with or without a header; lines of WordNet ID and name or class index; lists with marks or quotes.

    The file is UTF-8, with or without a byte order mark (UTF-16 with one), with any line ends. Spaces around a name
    and blank lines are ignored. If several classes have the same name, such as "crane" in lists of ImageNet, the
    class index is appended to it, with a warning, so that names are unique.

    Args:
        source: a path, or the names themselves.

    Raises:
        ConfigurationError: the file cannot be read or is empty, a name in JSON is blank, class indices are not 0 to
            n-1, or the lines look numbered or structured in a way that cannot be read with certainty.
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
    text = _text(data, where)
    parsed = _parse_json(text, path, where)
    if parsed is None:
        lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
        table = path.suffix.lower() in (".csv", ".tsv")
        parsed = names_in_lines(lines, where, lambda what: _taken(where, what), table)
    elif isinstance(parsed, dict):
        parsed = _map_of_names(parsed, where)
    return check_names(_in_order(parsed, where), where)


def _text(data: bytes, where: str) -> str:
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as exc:
        raise ConfigurationError(
            f"{where} is not UTF-8 text (byte {exc.start})", hint="save it as UTF-8"
        ) from exc
    control = re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text)
    if control is None:
        return text
    if looks_like_utf16(data):
        raise ConfigurationError(
            f"{where} looks like UTF-16 or UTF-32 without a byte order mark", hint="save it as UTF-8"
        )
    raise ConfigurationError(
        f"{where} is not text: it has the control character {brief(control[0])}", hint="save it as UTF-8 text"
    )


def _taken(where: str, what: str) -> None:
    reporter().warn(f"{where}: read as {what}.")


_HOLDERS = (
    *"id2label label_names pretrained_cfg idx_to_class class_names".split(),
    *"names labels classes class_to_idx label2id".split(),
)
"""Keys of JSON objects that hold the names, the most reliable first."""


def _map_of_names(content: dict[Any, Any], where: str) -> Any:
    """The map of class index to name in a JSON object, whatever it was written for."""
    for key in _HOLDERS:
        inner = content.get(key)
        if isinstance(inner, dict) and key == "pretrained_cfg":
            inner = inner.get("label_names")
        if isinstance(inner, (dict, list)):
            of_model = key in ("id2label", "label_names", "pretrained_cfg")
            holder = "a model's configuration" if of_model else "a JSON object"
            _taken(where, f"the {key.replace('pretrained_cfg', 'label_names')} of {holder}")
            return _map_of_names(inner, where) if isinstance(inner, dict) else inner
    values = list(content.values())
    if (
        values
        and all(is_integer(value, 0, len(values) - 1) for value in values)
        and len(set(values)) == len(values)
    ):
        _taken(where, "a map of name to class index")
        return {str(number): name for name, number in content.items()}
    pairs = [
        value
        for value in values
        if isinstance(value, list) and len(value) == 2 and re.match(r"n\d+$", str(value[0]))
    ]
    if values and len(pairs) == len(values):
        _taken(where, "ImageNet's list of WordNet IDs and names")
        return {key: name for key, (_, name) in content.items()}
    return content


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
    if not is_json and _PYTHON.match(text) and (parsed := _python_literal(text, where)) is not None:
        _taken(where, "a Python literal")
        return parsed
    if not is_json and not text.lstrip().startswith(("[", "{")):
        return None
    try:
        parsed = parse_json(text)
    except json.JSONDecodeError as exc:
        if not is_json and "\n" in text.strip() and not text.rstrip().endswith(("]", "}")):
            return None  # a plain list whose first name starts with a bracket
        if (parsed := _python_literal(text, where)) is not None:
            _taken(where, "a Python literal")
            return parsed
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


_PYTHON = re.compile(r"(\s*#[^\n]*\n|\s)*(\w+\s*=\s*(?=[\[{(])|\((?=\s*[\"'])|(?<=\n)(?=[\[{]))")
"""Python that is not JSON either: an assignment, a tuple, or a literal after comments."""


def _python_literal(text: str, where: str) -> list[Any] | dict[str, Any] | None:
    """A list or a dict of names in Python's notation; None if it is neither. No code is run.

    Raises:
        ConfigurationError: two keys are equal.
    """
    try:
        tree = ast.parse(re.sub(r"^(\s*#[^\n]*\n|\s)*(\w+\s*=\s*)?", "", text).strip(), mode="eval")
        value = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if isinstance(value, dict) and isinstance(tree.body, ast.Dict):
        names = {str(key): name for key, name in value.items()}
        if len(names) < len(tree.body.keys):
            raise ConfigurationError(f"{where}: a class is given twice", hint=AS_LIST)
        return names
    return list(value) if isinstance(value, (list, tuple)) else None


def _in_order(names: Any, where: str) -> Iterable[Any]:
    """The names of a list, or of a map of class index to name, in the order of the classes."""
    if not isinstance(names, dict):
        return names
    if any(isinstance(value, int) for value in names.values()):
        raise ConfigurationError(
            f"{where} maps names to numbers",
            hint='write a map of class index to name: {"0": "cat", ...}',
        )
    other = next((key for key in names if not re.fullmatch(r"\s*\d{1,9}\s*", str(key))), None)
    if other is not None:
        raise ConfigurationError(
            f"{where}: the key {brief(other)} is not a class index",
            hint='write a map of class index to name: {"0": "cat", ...}',
        )
    by_number = {int(key): value for key, value in names.items()}
    mismatch = sorted(set(range(len(names))) ^ set(by_number))
    if mismatch:
        raise ConfigurationError(
            f"{where}: the class indices must be 0 to {len(names) - 1}, each once",
            hint=f"check class index {mismatch[0]}",
        )
    return [by_number[number] for number in range(len(names))]
