"""The config.json of a model, and timm's configuration in it, as typed objects: every value is checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timmx.base import brief, is_utf8
from timmx.contract import (
    CROP_MODE,
    CROP_PCT,
    INTERPOLATION,
    MEAN,
    SIZE,
    STD,
    Rule,
    is_integer,
    is_number,
)
from timmx.errors import ConfigurationError

_MOST_CLASSES = 2**31 - 1
_LONGEST = 10_000
_LARGEST_ARGUMENT = 10**6
"""No dimension, depth or image side of a timm model comes near it; timm makes lists as long as a depth."""
_MOST_ITEMS = 1000


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A config.json, as timm's `save_for_hf` writes it.

    Attributes:
        architecture: timm's name of the model.
        weights_name: the name of its weights file on the hub; None for timm's usual names.
        arguments: of create_model.
        rewritten: the content as timm can read it; None if it can read the file itself.
        multi_label: transformers' problem_type says that an image can have several classes.
        notes: what of it is not used.
    """

    architecture: str
    weights_name: str | None
    arguments: Mapping[str, Any]
    rewritten: Mapping[str, Any] | None
    multi_label: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def parse(cls, content: Any, where: str, hint: str) -> ModelConfig:
        """The configuration in the JSON values of a config.json.

        Args:
            content: JSON values.
            where: the file's name in messages.
            hint: how to write such a file.

        Raises:
            ConfigurationError: it does not name an architecture, or a value is not allowed.
        """
        architecture = content.get("architecture") if isinstance(content, dict) else None
        if not isinstance(architecture, str):
            raise ConfigurationError(
                f'{where}: its config.json does not name a timm "architecture", such as "resnet18"', hint=hint
            )
        known = _for_timm(content)
        rewritten = None if known.keys() == content.keys() else known
        notes = _unused_names(content, known, where)
        content = known
        check_keys(content, _TOP, f"{where}: config.json")
        model_args = content.get("model_args") or {}
        check_keys(model_args, _ARGUMENTS, f"{where}: config.json", "model_args.")
        check_arguments(model_args, f"{where}: config.json: model_args.")
        own = content.get("pretrained_cfg", content)
        check_keys(own, TIMM_CONFIG, f"{where}: config.json", "" if own is content else "pretrained_cfg.")
        return cls(
            architecture=architecture,
            weights_name=own.get("hf_hub_filename"),
            arguments=model_args,
            rewritten=rewritten,
            multi_label=content.get("problem_type") == "multi_label_classification",
            notes=notes,
        )


def _for_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of transformers with timm's keys: without empty values, and with its class names."""
    content = {key: value for key, value in content.items() if value is not None}
    names = content.get("id2label")
    if isinstance(names, Mapping) and "label_names" not in content and "model_type" in content:
        names = {str(index): name for index, name in names.items()}
        listed = [names.get(str(index)) for index in range(len(names))]
        if all(isinstance(name, str) and name != f"LABEL_{index}" for index, name in enumerate(listed)):
            content["label_names"] = listed
    return content


def _unused_names(content: Mapping[str, Any], known: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """A note about an id2label that is not used; transformers' own default names are left out without one."""
    names = content.get("id2label")
    if not isinstance(names, Mapping) or "label_names" in known or "model_type" not in known or not names:
        return ()
    keys = {str(index) for index in names}
    missing = next((index for index in range(len(names)) if str(index) not in keys), None)
    if missing is None and all(name == f"LABEL_{index}" for index, name in names.items()):
        return ()
    reason = (
        "some of its names are missing or transformers' defaults (LABEL_0)"
        if missing is None
        else f"it has no name for class index {missing}"
    )
    return (f"{where}: the class names in id2label are left out: {reason}. Use --labels FILE for others.",)


def check_timm_config(config: Mapping[str, Any], where: str) -> None:
    """Check the values of timm's configuration of a model, such as a module's `pretrained_cfg`.

    Args:
        config: values by key; unknown keys are ignored.
        where: the source, for messages.

    Raises:
        ConfigurationError: a value is not allowed.
    """
    check_keys(config, TIMM_CONFIG, where)


def check_keys(values: Mapping[str, Any], rules: Mapping[str, Rule], where: str, prefix: str = "") -> None:
    """Check values by their rules; None stands for a key that is not set.

    Raises:
        ConfigurationError: the first value that is not allowed, with the key and what is.
    """
    for key, rule in rules.items():
        value = values.get(key)
        if value is not None and not rule.accepts(value):
            raise ConfigurationError(
                f"{where}: {prefix}{key} is {brief(value)}", hint=f"{prefix}{key} must be {rule.allowed}"
            )


def check_arguments(arguments: Mapping[str, Any], where: str) -> None:
    """Check the arguments of create_model that a file or an option gives.

    Args:
        arguments: values by name.
        where: text before the name in messages.

    Raises:
        ConfigurationError: a value that no model takes, such as an undefined or a giant number.
    """
    for name, value in arguments.items():
        problem = _argument_problem(value, _MOST_CLASSES if name == "num_classes" else _LARGEST_ARGUMENT)
        if problem:
            raise ConfigurationError(
                f"{where}{brief(name).strip(chr(39))}={brief(value)}: {problem}",
                hint="give the value that the model was built with, or leave it out",
            )


def _argument_problem(value: Any, largest: int, level: int = 0) -> str:
    if isinstance(value, (bool, type(None))):
        return ""
    if isinstance(value, (int, float)):
        return "" if is_number(value, -largest, largest) else f"numbers are finite and at most {largest:,}"
    if isinstance(value, str):
        return (
            "" if is_utf8(value) and len(value) <= _LONGEST else f"texts have at most {_LONGEST:,} characters"
        )
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        if len(value) > _MOST_ITEMS or level > 8:
            return f"lists have at most {_MOST_ITEMS:,} values and 8 levels"
        problems = (_argument_problem(item, largest, level + 1) for item in value)
        return next(filter(None, problems), "")
    return ""  # from Python, such as a class of layers


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and is_utf8(value) and len(value) <= _LONGEST


def _is_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, (list, tuple)) and all(map(_is_text, value)))


def _is_names(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_text, value.keys())) and all(map(_is_texts, value.values()))
    return isinstance(value, (list, tuple)) and all(map(_is_text, value))


def _is_grid(value: Any) -> bool:
    sizes = value if isinstance(value, (list, tuple)) else (value,)
    return all(is_integer(size, 0, _LARGEST_ARGUMENT) for size in sizes)


_TEXT = Rule("text", _is_text)
_TEXTS = Rule("text, or a list of texts", _is_texts)
_FLAG = Rule("true or false", lambda value: isinstance(value, bool))
_NAMES = Rule("a list of names, or an object of class index to name", _is_names)
_CLASSES = Rule("an integer from 0 to 2**31 - 1", lambda value: is_integer(value, 0, _MOST_CLASSES))
_OBJECT = Rule("an object", lambda value: isinstance(value, Mapping))
_GRID = Rule("an integer, or a list of them", _is_grid)

TIMM_CONFIG = {
    "architecture": _TEXT,
    "tag": _TEXT,
    "url": _TEXTS,
    "file": _TEXT,
    "hf_hub_id": _TEXT,
    "hf_hub_filename": _TEXT,
    "source": _TEXT,
    "state_dict": Rule("left out: weights are in a file of their own", lambda _: False),
    "custom_load": Rule("true, false or text", lambda value: isinstance(value, bool) or _is_text(value)),
    "input_size": SIZE,
    "test_input_size": SIZE,
    "min_input_size": SIZE,
    "fixed_input_size": _FLAG,
    "interpolation": INTERPOLATION,
    "crop_pct": CROP_PCT,
    "test_crop_pct": CROP_PCT,
    "crop_mode": CROP_MODE,
    "mean": MEAN,
    "std": STD,
    "num_classes": _CLASSES,
    "label_offset": Rule("an integer", lambda value: is_integer(value, -_MOST_CLASSES, _MOST_CLASSES)),
    "label_names": _NAMES,
    "labels": _NAMES,
    "label_descriptions": _NAMES,
    "pool_size": _GRID,
    "test_pool_size": _GRID,
    "first_conv": _TEXTS,
    "classifier": _TEXTS,
    "license": _TEXT,
}
"""Keys of timm's PretrainedCfg that timm or timmx uses, and their values."""

_ARGUMENTS = {
    "num_classes": _CLASSES,
    "in_chans": Rule("an integer of at least 1", lambda value: is_integer(value, 1, _LARGEST_ARGUMENT)),
    "img_size": _GRID,
}
"""Arguments of create_model that most models take."""

_TOP = {
    "num_classes": _CLASSES,
    "num_features": Rule("an integer of at least 1", lambda value: is_integer(value, 1, _MOST_CLASSES)),
    "label_names": _NAMES,
    "label_descriptions": _NAMES,
    "model_args": _OBJECT,
    "pretrained_cfg": _OBJECT,
}
"""Keys of a config.json outside its timm configuration."""
