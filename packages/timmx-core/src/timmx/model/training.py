"""What a checkpoint states about its training: the model's name, create_model's arguments, the data config."""

from __future__ import annotations

import argparse
import ast
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from timmx.base import brief
from timmx.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

_ARGUMENTS = {
    "gp": "global_pool",
    "global_pool": "global_pool",
    "bn_eps": "bn_eps",
    "num_classes": "num_classes",
    "in_chans": "in_chans",
}
"""Options that trainers pass to create_model under these names, in addition to `model_kwargs`."""
KWARGS = ("model_kwargs", "model_args")
_TENSORFLOWS_EPS = 1e-3
"""The `bn_eps` that `--bn-tf` of timm's train.py stood for, until timm 0.9."""
_OF_TRAINING = ("drop", "attn_drop", "proj_drop", "patch_drop", "pos_drop", "weight_init", "fix_init")
"""What arguments begin with that do not change the output of inference."""
_WITHOUT_INFLUENCE = ("pretrained", "scriptable", "exportable", "no_jit", "cache_dir")
"""Arguments of create_model that change neither the model's structure nor its output with these weights."""
_NAMES = ("arch", "architecture", "model_name")
"""Options that name a model."""

DATA_CONFIG = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size")
_OF_DATA = (*DATA_CONFIG, "img_size", "image_size")
_POOLS_AND_NORMS = ("gp", "global_pool", "bn_eps", "bn_tf", *KWARGS)
"""Options that are unlikely to mean something else, wherever they are in a file."""

_MODULES = ("hyper_parameters", "hparams", "hyperparameters", "init_args", "kwargs")
_OF_MODEL = re.compile(
    r"((timm|create)_?)?(model|backbone|net|network|encoder|timm)?_?(args|arguments|kwargs|cfg|config|params|options)?"
)
_OF_IMAGES = re.compile(
    r"(data|dataset|datamodule|preprocess|preprocessing|transform|transforms|pretrained)(_?(args|kwargs|cfg|config|"
    r"params|options|hyper_parameters))?"
)
_UNRELATED = re.compile(r"optim|sched|scaler|callback|loop|loss|teacher|augment")
_SMALLEST_SIDE = 16
"""Of an image, in pixels: a smaller number under such a name is something else, such as a number of channels."""
_MOST_LEVELS = 5
_MOST_DICTS = 1000
"""Limits of nested options: a pickle may have dicts that hold each other."""


@dataclass
class TrainingOptions:
    """The options of a checkpoint other than the arguments of timm's train.py.

    Attributes:
        values: options by name. Those of Lightning modules, and of dicts that are named like a model's arguments, can
            be arguments of the model's constructor.
        contradictions: options for which the file has several values, with these values.
    """

    values: dict[str, Any] = field(default_factory=dict)
    contradictions: dict[str, list[Any]] = field(default_factory=dict)

    def with_values(self, options: Mapping[str, Any]) -> TrainingOptions:
        """These options and others."""
        both = TrainingOptions(
            dict(self.values), {key: [*found] for key, found in self.contradictions.items()}
        )
        both.add(options)
        return both

    def add(self, options: Mapping[str, Any]) -> None:
        """Add options that are set; the first value of each counts."""
        for key, value in options.items():
            if value is None or value == "":
                continue
            first = self.values.setdefault(key, value)
            if not _equal(first, value):
                self.contradictions.setdefault(key, [first]).append(value)


def _equal(one: Any, other: Any) -> bool:
    one, other = (list(value) if isinstance(value, tuple) else value for value in (one, other))
    return bool(one == other)


def options_of(value: Any) -> dict[str, Any]:
    """A checkpoint's options as a dict, whether they were stored as a Namespace, a dict or not at all."""
    content = vars(value) if isinstance(value, argparse.Namespace) else value
    return {key: content[key] for key in content if isinstance(key, str)} if isinstance(content, dict) else {}


def other_options(content: Mapping[Any, Any]) -> TrainingOptions:
    """The options in all dicts and Namespaces of a checkpoint, except those of timm's train.py under `args`.

    Trainers store them under `config`, `opt`, `hyper_parameters` and many other names, nested or not. Those of a
    dict that is named like a model's arguments can be any of its constructor's; of others only those are taken that
    are unlikely to mean something else. Dicts with tensors, and those of optimizers, losses and other models, are none.
    """
    found = TrainingOptions()
    for name, options in _dicts(content):
        plain = {key: value for key, value in options.items() if not _is_dict(value) or key in KWARGS}
        if name in _MODULES or (name and _OF_MODEL.fullmatch(name)):
            kept = plain
        elif _OF_IMAGES.fullmatch(name):
            kept = {key: plain[key] for key in plain if key in _OF_DATA}
        else:
            kept = {key: plain[key] for key in plain if key in (*_POOLS_AND_NORMS, *_OF_DATA)}
        found.add(
            {
                _ARGUMENTS.get(key, key): value
                for key, value in kept.items()
                if key not in _OF_DATA or _is_of_data(key, value)
            }
        )
    return found


def _dicts(content: Mapping[Any, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dicts and Namespaces with options, each with its lower-case name; the file itself has none."""
    waiting: list[tuple[str, int, Any]] = [("", 0, content)]
    for name, level, held in waiting:
        options = options_of(held)
        if level and _has_tensors(options):
            continue
        yield name, options
        if level < _MOST_LEVELS and len(waiting) < _MOST_DICTS:
            waiting += [
                (key.lower(), level + 1, value)
                for key, value in options.items()
                if _is_dict(value)
                and not _UNRELATED.search(key.lower())
                and not (level == 0 and key == "args")
                and key not in KWARGS
            ]


def _is_dict(value: Any) -> bool:
    return isinstance(value, (dict, argparse.Namespace))


def _has_tensors(options: Mapping[str, Any]) -> bool:
    import torch

    return any(isinstance(value, torch.Tensor) for value in options.values())


def _is_of_data(key: str, value: Any) -> bool:
    """Whether an option has the form that it has in a data config."""
    numbers = isinstance(value, (list, tuple)) and all(type(item) in (int, float) for item in value)
    if key in ("mean", "std"):
        return numbers and len(value) > 0
    if key in ("interpolation", "crop_mode"):
        return isinstance(value, str)
    if key == "crop_pct":
        return type(value) in (int, float)
    sides = (value,) if type(value) is int else value[-2:] if numbers and len(value) in (2, 3) else ()
    return bool(sides) and all(isinstance(side, int) and side >= _SMALLEST_SIDE for side in sides)


def arguments_of_training(options: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of create_model in the options of timm's train.py that change what the model computes.

    Raises:
        ModelError: `model_kwargs` is a text that cannot be read.
    """
    arguments: dict[str, Any] = {}
    for key in KWARGS:
        arguments |= _mapping(options.get(key), key, path)
    arguments = {key: value for key, value in arguments.items() if key not in _WITHOUT_INFLUENCE}
    if options.get("bn_tf") is True:
        arguments.setdefault("bn_eps", _TENSORFLOWS_EPS)
    arguments |= {
        argument: options[key] for key, argument in _ARGUMENTS.items() if options.get(key) not in (None, "")
    }
    size = options.get("input_size")
    if "in_chans" not in arguments and isinstance(size, (list, tuple)) and len(size) == 3:
        arguments["in_chans"] = size[0]
    return {key: value for key, value in arguments.items() if value is not None}


def arguments_of_module(
    options: Mapping[str, Any], path: Path, own_arguments: Callable[[], Collection[str]]
) -> dict[str, Any]:
    """The arguments of create_model in the hyperparameters of a Lightning module, which have others next to them.

    Args:
        options: the hyperparameters.
        path: the checkpoint, for messages.
        own_arguments: returns the names that the model's constructor takes; called only if it matters.

    Raises:
        ModelError: `model_kwargs` is a text that cannot be read.
    """
    arguments = arguments_of_training(options, path)
    unclear = {
        key: value
        for key, value in options.items()
        if key not in (*_ARGUMENTS, *KWARGS, *_NAMES, *_OF_DATA)
        and value is not None
        and not key.startswith(_OF_TRAINING)
    }
    if unclear:
        own = own_arguments()
        arguments = {**{key: value for key, value in unclear.items() if key in own}, **arguments}
    return arguments


def _mapping(value: Any, key: str, path: Path) -> dict[str, Any]:
    """`model_kwargs` as a dict; as a text it is a Python dict or `name=value` pairs, as on train.py's command line."""
    if not isinstance(value, str):
        return options_of(value)
    try:
        if not value.strip().startswith("{"):
            pairs = [pair.split("=", 1) for pair in value.split()]
            return {name: _literal(text) for name, text in pairs}
        parsed = ast.literal_eval(value)
        if isinstance(parsed, dict):
            return options_of(parsed)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    raise ModelError(
        f"{path} was trained with {key}={brief(value)}, which cannot be read",
        hint=f"save {key} as a dict, or save the state dict alone and use --model-kwargs",
    )


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def model_of_training(names: Collection[Any]) -> str | None:
    """The first of a checkpoint's statements that is a name of timm, as timm calls the model today.

    Args:
        names: `arch`, `args.model` and the like; the class of a model, or a name of the user's own, is none of timm's.

    Returns:
        `architecture` or `architecture.tag`; None if there is no such name.
    """
    names = [name for name in names if isinstance(name, str) and not name.startswith("local-dir:")]
    if not names:
        return None
    from timm.models import get_deprecated_models, get_pretrained_cfg, is_model

    current = get_deprecated_models()
    for name in names:
        stated = name.rpartition("/")[2]  # of hf-hub:timm/NAME
        stated = current.get(stated.partition(".")[0]) or stated
        architecture = stated.partition(".")[0]
        if is_model(architecture):
            try:
                get_pretrained_cfg(stated)
            except RuntimeError:  # timm has no such tag
                return architecture
            return stated
    return None


def names_of(content: Mapping[str, Any], args: Mapping[str, Any], hyper: Mapping[str, Any]) -> list[Any]:
    """A checkpoint's statements about the name of its model, the most reliable first."""
    return [args.get("model"), *(source.get(key) for source in (content, hyper) for key in _NAMES)]
