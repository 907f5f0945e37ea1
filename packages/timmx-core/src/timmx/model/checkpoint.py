"""Weights from a user's file: read without running code from it, and fitted to the model or refused."""

from __future__ import annotations

import argparse
import inspect
import pickle
import pickletools
import re
import sys
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from timmx.errors import ConfigurationError, ModelError
from timmx.model.build import said

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")

_PLAIN = ("state_dict", "model", "model_state_dict")
_AVERAGED = ("state_dict_ema", "model_ema")
_WRAPPERS = ("module.", "_orig_mod.")
"""Left by DistributedDataParallel and by torch.compile, in either order."""


@dataclass(frozen=True)
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
        hint = f" Export local-dir:{path} instead." if (path / "config.json").is_file() else ""
        raise ConfigurationError(f"{where} is a folder, not a file.{hint}")
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(f"{where}: weights are read from {', '.join(SUFFIXES)} files.")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as exc:
        raise ConfigurationError(f"{where} cannot be read: {exc.strerror or exc}.") from exc
    if not start:
        raise ConfigurationError(f"{where} is empty.")
    if start.startswith(b"version https://git-lfs"):
        raise ConfigurationError(f"{where} is a Git LFS pointer, not the weights: run git lfs pull.")


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
        return Checkpoint(path, _unwrap(_read_safetensors(path, use_ema)))
    found = _read_pickle(path)
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds a {type(found).__name__}, not a state dict: {_SAVE_AGAIN}.")
    averaged = next((key for key in _AVERAGED if isinstance(found.get(key), dict)), None)
    plain = next((key for key in _PLAIN if isinstance(found.get(key), dict)), None)
    notes = []
    if use_ema and averaged is None:
        raise ModelError(f"{path} has no averaged weights (state_dict_ema): leave --use-ema out.")
    if averaged and not use_ema:
        if plain is None:
            raise ModelError(f"{path} has averaged weights alone ({averaged}): take them with --use-ema.")
        notes.append(f"{path.name} also holds averaged weights ({averaged}): --use-ema takes them.")
    key = averaged if use_ema else plain
    tensors = _tensors(found[key] if key else found)
    if not tensors:
        keys = ", ".join(str(name) for name in list(found)[:5])
        raise ModelError(f"{path} holds no weights (its keys: {keys or 'none'}): {_SAVE_AGAIN}.")
    args = found.get("args")
    architecture = found.get("arch")
    return Checkpoint(
        path,
        _unwrap(tensors),
        architecture if isinstance(architecture, str) else None,
        dict(vars(args)) if isinstance(args, argparse.Namespace) else {},
        tuple(notes),
    )


def fit_state_dict(
    checkpoint: Checkpoint, model: nn.Module, spare: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The checkpoint's tensors under the model's names, complete, and what was changed to get there.

    Where the plain names do not fit, the conversion is tried that timm keeps beside the model
    (`checkpoint_filter_fn`: original repositories' names, position embeddings of another size).

    Args:
        checkpoint: as read.
        model: a timm model; on the meta device too.
        spare: names that may be left over, such as the classifier's where the model has none.

    Raises:
        ModelError: it does not fit: what is missing, unexpected or of another shape, and the mend.
    """
    target = model.state_dict()
    spare = set(spare) | {name for name, _ in model.named_buffers()}
    plain = _without_common_prefix(checkpoint.state_dict, target)
    misfit = _Misfit.between(plain, target, spare)
    if misfit.fits:
        return _complete(plain, target), ()
    converted = _converted(plain, model)
    if converted is not None and _Misfit.between(converted, target, spare).fits:
        note = f"{checkpoint.path.name} was converted to timm's names and shapes"
        resized = [name for name, *_ in misfit.reshaped]
        if resized:
            note += f"; made for another input size, resized: {_some(resized)}"
        return _complete(converted, target), (note + ".",)
    raise ModelError(_describe_misfit(checkpoint, model, misfit))


@dataclass(frozen=True)
class _Misfit:
    missing: list[str]
    unexpected: list[str]
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    """Name, shape in the file, shape in the model."""

    @classmethod
    def between(
        cls, state: Mapping[str, Tensor], target: Mapping[str, Tensor], spare: Collection[str]
    ) -> _Misfit:
        return cls(
            [name for name in target if name not in state and not _is_counter(name)],
            [name for name in state if name not in target and name not in spare],
            [
                (name, tuple(state[name].shape), tuple(tensor.shape))
                for name, tensor in target.items()
                if name in state and state[name].shape != tensor.shape
            ],
        )

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)


def _is_counter(name: str) -> bool:
    """Batch norm's step counter, which old checkpoints lack and inference never reads."""
    return name.endswith("num_batches_tracked")


def _complete(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every name of the model; a counter that the file lacks counts from 0."""
    import torch

    return {
        name: state[name] if name in state else torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in target.items()
    }


_SAVE_AGAIN = "save model.state_dict() with torch.save or safetensors"


def _read_safetensors(path: Path, use_ema: bool) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if use_ema:
        raise ModelError(f"{path}: a safetensors file holds one set of weights; leave --use-ema out.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as exc:
        raise ModelError(f"{path} is damaged or no safetensors file: {said(exc)}.") from exc
    if not tensors:
        raise ModelError(f"{path} holds no weights.")
    return tensors


def _read_pickle(path: Path) -> Any:
    """torch.load with `weights_only`: tensors and plain containers, and timm's Namespace of options."""
    import torch

    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # mapped, so that an optimizer's state beside the weights is never read from disk
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as exc:
        named = re.search(r"GLOBAL ([\w.]+)", str(exc))
        culprit = named[1] if named else _first_global(path)
        if culprit:
            raise ModelError(
                f"{path} was refused: it would run code on loading ({culprit}), not bring weights alone. "
                f"Where you trust its origin, {_SAVE_AGAIN} there."
            ) from exc
        raise ModelError(f"{path} is damaged or no PyTorch checkpoint.") from exc
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as exc:
        if "TorchScript" in str(exc):
            raise ModelError(f"{path} is a TorchScript program, not weights: {_SAVE_AGAIN}.") from exc
        if "legacy .tar" in str(exc):
            raise ModelError(f"{path} has the form of PyTorch before 0.1.10: {_SAVE_AGAIN}.") from exc
        raise ModelError(f"{path} is damaged or no PyTorch checkpoint: {said(exc)}.") from exc


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


def _tensors(state: Mapping[Any, Any]) -> dict[str, Tensor]:
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


def _without_common_prefix(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off a first part that every name has and the model has not, such as Lightning's `model.`."""
    firsts = {name.split(".")[0] for name in state}
    if len(firsts) != 1 or firsts & {name.split(".")[0] for name in target}:
        return state
    prefix = firsts.pop() + "."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _converted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    """The state after timm's conversion for this family; None where there is none or it cannot."""
    module = sys.modules[type(model).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is None:
        return None
    arguments = (dict(state), model)[: min(2, len(inspect.signature(convert).parameters))]
    try:
        return _tensors(convert(*arguments))
    except Exception:  # written for its own family's files, it may stumble over any other
        return None


def _describe_misfit(checkpoint: Checkpoint, model: nn.Module, misfit: _Misfit) -> str:
    cfg = getattr(model, "pretrained_cfg", {})
    architecture = cfg.get("architecture") or type(model).__name__
    parts = []
    if misfit.missing:
        parts.append(f"{_keys(len(misfit.missing))} missing ({_some(misfit.missing)})")
    if misfit.unexpected:
        parts.append(f"{_keys(len(misfit.unexpected))} unexpected ({_some(misfit.unexpected)})")
    if misfit.reshaped:
        shapes = [
            f"{name}: {_shape(file)} in the file, {_shape(own)} in the model"
            for name, file, own in misfit.reshaped
        ]
        parts.append(f"{_keys(len(misfit.reshaped))} of another shape ({_some(shapes)})")
    message = f"{checkpoint.path} does not fit {architecture}: {'; '.join(parts)}."
    mend = _mend(cfg, model, misfit)
    if not mend and checkpoint.architecture and checkpoint.architecture.split(".")[0] != architecture:
        mend = f"It was trained as {checkpoint.architecture}: export that."
    return f"{message} {mend or 'Give the model that it was made from.'}"


def _mend(cfg: Mapping[str, Any], model: nn.Module, misfit: _Misfit) -> str:
    """The flags that make it fit, where nothing but the classifier or the stem differs."""
    classifier, stem = _layers(cfg.get("classifier")), _layers(cfg.get("first_conv"))
    flags = {}
    for name, file, own in misfit.reshaped:
        layer = name.rpartition(".")[0]
        if layer in classifier and file[1:] == own[1:]:
            flags["--num-classes"] = file[0]
        elif layer in stem and len(file) == len(own) > 1 and own[1]:
            flags["--in-chans"] = file[1] * getattr(model, "in_chans", 3) // own[1]
        else:
            return ""
    if misfit.unexpected:
        return ""
    if misfit.missing:
        if not all(name.rpartition(".")[0] in classifier for name in misfit.missing):
            return ""
        flags["--num-classes"] = 0
    return "Give " + " and ".join(f"{flag} {value}" for flag, value in flags.items()) + "."


def _layers(names: str | Collection[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _keys(count: int) -> str:
    return f"{count} key{'s' * (count != 1)}"


def _some(names: Collection[str], most: int = 3) -> str:
    shown = ", ".join(list(names)[:most])
    return shown + (", ..." if len(names) > most else "")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"
