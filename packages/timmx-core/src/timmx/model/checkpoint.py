"""Weights from a user's file, read without running any code from it."""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from timmx.errors import ConfigurationError, ModelError, TimmxError
from timmx.model.build import said

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")

_PLAIN = ("state_dict", "model", "model_state_dict")
_AVERAGED = ("state_dict_ema", "model_ema")
_WRAPPERS = ("module.", "_orig_mod.")
"""Left by DistributedDataParallel and by torch.compile, in either order."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        state_dict: tensors on the CPU, wrapper prefixes taken off.
        architecture: what timm's train.py noted as `arch`, else None.
        args: what timm's train.py was called with, else empty.
        notes: what the user should know.
    """

    path: Path
    state_dict: dict[str, Tensor]
    architecture: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_checkpoint(path: Path, where: str = "--checkpoint ") -> None:
    """Refuse what cannot be a checkpoint. Light: opens the file, but needs no torch.

    Args:
        path: the file.
        where: what a message puts before the path.

    Raises:
        ConfigurationError: missing, a folder, empty, of an unknown kind, or a Git LFS pointer.
    """
    where = f"{where}{path}"
    if path.is_dir():
        is_model = (path / "config.json").is_file()
        hint = f"export local-dir:{path} instead" if is_model else "name a weights file in it"
        raise ConfigurationError(f"{where} is a folder, not a file", hint=hint)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(
            f"{where}: weights are read from {', '.join(SUFFIXES)} files", hint=_SAVE_AGAIN
        )
    check_content(path, where, "the weights")


def check_content(path: Path, where: str, what: str) -> None:
    """Refuse a file that cannot be read, or that by its first bytes holds nothing; needs no torch.

    Args:
        path: the file.
        where: how a message names it.
        what: what it should hold, such as `the weights`.

    Raises:
        ConfigurationError: missing, empty, or a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as exc:
        raise ConfigurationError(
            f"{where} cannot be read: {exc.strerror or exc}", hint="check the path and its permissions"
        ) from exc
    if not start:
        raise ConfigurationError(f"{where} is empty", hint=f"copy or save {what} again")
    if start.startswith(b"version https://git-lfs"):
        raise ConfigurationError(f"{where} is a Git LFS pointer, not {what}", hint="git lfs pull")


def read_checkpoint(path: Path, use_ema: bool = False) -> Checkpoint:
    """The weights in a file: safetensors, or a pickle read with `weights_only`, which runs no code.

    Weights are looked for under `state_dict`, `model` and `model_state_dict`, with `use_ema` under
    `state_dict_ema` and `model_ema`; a file without those keys is taken for a plain state dict.

    Raises:
        ConfigurationError: no such file, or one that cannot be a checkpoint.
        ModelError: damaged, a pickle that would run code, no weights inside, or no averaged ones.
    """
    check_checkpoint(path)
    if path.suffix.lower() == ".safetensors":
        return Checkpoint(path=path, state_dict=_unwrap(_read_safetensors(path, use_ema)))
    found = read_pickle(path, _SAVE_AGAIN, ModelError)
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a {type(found).__name__}, not a state dict", hint=_SAVE_AGAIN)
    averaged = next((key for key in _AVERAGED if isinstance(found.get(key), dict)), None)
    plain = next((key for key in _PLAIN if isinstance(found.get(key), dict)), None)
    notes = []
    if use_ema and averaged is None:
        raise ModelError(f"{path} has no averaged weights (state_dict_ema)", hint="leave --use-ema out")
    if averaged and not use_ema:
        if plain is None:
            raise ModelError(
                f"{path} has only averaged weights ({averaged})", hint="use --use-ema to take them"
            )
        notes.append(f"{path.name} also holds averaged weights ({averaged}): --use-ema takes them.")
    key = averaged if use_ema else plain
    tensors = tensors_of(found[key] if key else found)
    if not tensors:
        keys = ", ".join(str(name) for name in list(found)[:5])
        raise ModelError(f"{path} holds no weights (its keys: {keys or 'none'})", hint=_SAVE_AGAIN)
    args = found.get("args")
    architecture = found.get("arch")
    return Checkpoint(
        path=path,
        state_dict=_unwrap(tensors),
        architecture=architecture if isinstance(architecture, str) else None,
        args=dict(vars(args)) if isinstance(args, argparse.Namespace) else {},
        notes=tuple(notes),
    )


_SAVE_AGAIN = "save model.state_dict() with torch.save or safetensors"


def _read_safetensors(path: Path, use_ema: bool) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if use_ema:
        raise ModelError(
            f"{path} has no averaged weights: a safetensors file holds one set of weights",
            hint="leave --use-ema out",
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as exc:
        raise ModelError(
            f"{path} is damaged or not a safetensors file: {said(exc)}", hint="copy or save the weights again"
        ) from exc
    if not tensors:
        raise ModelError(f"{path} holds no weights", hint=_SAVE_AGAIN)
    return tensors


def read_pickle(path: Path, hint: str, error: type[TimmxError]) -> Any:
    """torch.load with `weights_only`: tensors and plain containers, and timm's Namespace of options; on the CPU.

    Tensors are mapped into memory where the file allows, so that only what is used is read from disk.

    Args:
        path: the file.
        hint: how to save what is meant, such as `save model.state_dict() with torch.save`.
        error: the class of the error.

    Raises:
        TimmxError: `error`; damaged, no file of torch.save, or one that would run code.
    """
    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as exc:
        named = re.search(r"GLOBAL ([\w.]+)", str(exc))
        culprit = named[1] if named else _first_global(path)
        if culprit:
            raise error(
                f"{path} was refused: it does not hold only tensors, loading it would run code ({culprit})",
                hint=f"if you trust its origin, {hint} there",
            ) from exc
        raise error(f"{path} is damaged or not a file of torch.save", hint=hint) from exc
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as exc:
        if "TorchScript" in str(exc):
            raise error(f"{path} is a TorchScript program, not tensors", hint=hint) from exc
        if "legacy .tar" in str(exc):
            raise error(f"{path} has the format of PyTorch before 0.1.10", hint=hint) from exc
        reason = "" if isinstance(exc, LookupError) else f": {said(exc)}"  # a KeyError says a number alone
        raise error(f"{path} is damaged or not a file of torch.save{reason}", hint=hint) from exc


def _first_global(path: Path) -> str:
    """What a bare pickle would import first, read without running it; empty where it imports nothing."""
    words: list[str] = []
    try:
        with path.open("rb") as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(words[-2:])
                if isinstance(argument, str):
                    words.append(argument)
    except ValueError:  # no pickle
        return ""
    return ""


def tensors_of(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The entries of a state dict that are weights."""
    import torch

    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def _unwrap(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    unwrapped = {}
    for name, tensor in state.items():
        while name.startswith(_WRAPPERS):
            name = name.removeprefix("module.").removeprefix("_orig_mod.")
        unwrapped[name] = tensor
    return unwrapped
