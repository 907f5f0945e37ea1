"""What a checkpoint states about its training: the model's name, and create_model's arguments."""

from __future__ import annotations

import argparse
import ast
from typing import TYPE_CHECKING, Any

from timmx.base import brief
from timmx.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

_ARGUMENTS = {
    "gp": "global_pool",
    "global_pool": "global_pool",
    "bn_eps": "bn_eps",
    "num_classes": "num_classes",
    "in_chans": "in_chans",
}
"""Options that trainers pass to create_model under these names, in addition to `model_kwargs`."""
_KWARGS = ("model_kwargs", "model_args")
_OF_TRAINING = ("drop", "attn_drop", "proj_drop", "patch_drop", "pos_drop", "weight_init", "fix_init")
"""What arguments begin with that do not change the output of inference."""
_NAMES = ("model_name", "architecture", "arch")
"""Hyperparameters that name a model."""


def options_of(value: Any) -> dict[str, Any]:
    """A checkpoint's options as a dict, whether they were stored as a Namespace, a dict or not at all."""
    content = vars(value) if isinstance(value, argparse.Namespace) else value
    return {key: content[key] for key in content if isinstance(key, str)} if isinstance(content, dict) else {}


def arguments_of_training(options: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The arguments of create_model in the options of timm's train.py that change what the model computes.

    Raises:
        ModelError: `model_kwargs` is a text that cannot be read.
    """
    arguments: dict[str, Any] = {}
    for key in _KWARGS:
        arguments |= _mapping(options.get(key), key, path)
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
        if key not in (*_ARGUMENTS, *_KWARGS, *_NAMES)
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
    return [args.get("model"), content.get("arch"), *(hyper.get(key) for key in _NAMES)]
