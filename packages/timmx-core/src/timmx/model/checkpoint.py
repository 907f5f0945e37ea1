"""Reads weights from a user's file without running code from it."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import brief, memory_bytes, open_file, parse_json, read_file, size_text
from timmx.errors import ConfigurationError, ModelError, TimmxError
from timmx.model.build import first_line
from timmx.model.stand_ins import safe_globals
from timmx.model.training import (
    DATA_CONFIG,
    TrainingOptions,
    model_of_training,
    names_of,
    options_of,
    other_options,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
INDEX_SUFFIX = ".index.json"
"""Of the file that lists weights in several files (shards), as transformers writes it."""

_PLAIN = ("state_dict", "model_state_dict")
"""Keys that name the weights of a model: they are searched before other tensors of the file."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The content of a weights file.

    Attributes:
        path: the file.
        state_dict: tensors on the CPU: those under the key of the weights, if there is one, otherwise all.
        everything: all tensors, with the keys that they are under as prefixes.
        averaged: whether `state_dict` is under a key of EMA weights.
        use_ema: whether EMA weights were requested.
        architecture: timm's name of the model that was trained, with its tag if it is stated; None if it is not.
        args: the arguments of timm's train.py, otherwise empty.
        other_options: those under other keys, such as the hyperparameters of a Lightning module.
        notes: notes for the user.
    """

    path: Path
    state_dict: dict[str, Tensor]
    everything: dict[str, Tensor]
    averaged: bool = False
    use_ema: bool = False
    architecture: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    other_options: TrainingOptions = field(default_factory=TrainingOptions)
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """The data config of training, with the keys of timm's configuration; without empty values."""
        stated = {
            key: value
            for key, value in (*self.other_options.values.items(), *self.args.items())
            if value is not None and not _is_empty(value)
        }
        options = {key: stated[key] for key in DATA_CONFIG if key in stated}
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        if options.get("interpolation") == "random":  # an augmentation of training
            del options["interpolation"]
        size = options.get("input_size")
        if isinstance(size, int) or (isinstance(size, tuple) and len(size) == 2):
            del options["input_size"]
        side = next((stated[key] for key in ("img_size", "image_size") if key in stated), size)
        if side is not None and "input_size" not in options:
            sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
            options["input_size"] = (3, *sides[-2:])
        return options


def _is_empty(value: Any) -> bool:
    return isinstance(value, (str, int, float, list, tuple)) and not value


def check_checkpoint(path: Path, where: str = "--checkpoint ") -> None:
    """Check that a file can be a checkpoint, without importing torch.

    Args:
        path: the file.
        where: text before the path in messages.

    Raises:
        ConfigurationError: the file is missing, a folder, empty, of an unknown kind, or a Git LFS pointer.
    """
    where = f"{where}{path}"
    if path.is_dir():
        is_model = (path / "config.json").is_file()
        hint = f"export local-dir:{path} instead" if is_model else "name a weights file in it"
        raise ConfigurationError(f"{where} is a folder, not a file", hint=hint)
    if path.suffix.lower() not in CHECKPOINT_SUFFIXES and not path.name.lower().endswith(INDEX_SUFFIX):
        raise ConfigurationError(
            f"{where}: weights are read from {', '.join(CHECKPOINT_SUFFIXES)} files", hint=_SAVE_AGAIN
        )
    check_content(path, where, "the weights")


def check_content(path: Path, where: str, what: str) -> None:
    """Check that a file can be read and has content, without importing torch.

    Args:
        path: the file.
        where: its name in messages.
        what: its expected content, such as `the weights`.

    Raises:
        ConfigurationError: the file is missing, empty, or a Git LFS pointer.
    """
    try:
        with open_file(path) as file:
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
    """Read weights from a safetensors file, or from a pickle with `weights_only`, which runs no code.

    An index of several such files (`.index.json`) stands for all of them.
    Weights are under `state_dict` or `model_state_dict`, under any other key, such as `model` or `net`, or in a plain
    state dict; `select_tensors` finds those of a model. EMA weights are those under a key or a prefix with the word
    `ema`, such as `state_dict_ema` or `model_ema`.

    Args:
        path: the file.
        use_ema: whether to read EMA weights.

    Raises:
        ConfigurationError: the file does not exist or cannot be a checkpoint.
        ModelError: the file is damaged, is a pickle that would run code, or has no weights (of the requested kind).
    """
    check_checkpoint(path)
    content = _read_shards(path) if path.name.lower().endswith(INDEX_SUFFIX) else _read_file(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state dict", hint=_SAVE_AGAIN)
    key = _key_of_weights(content, use_ema)
    held: Any = content[key] if key else content
    if quantized := next((name for name in held if "_packed_params" in str(name)), None):
        raise ModelError(f"{path} holds a quantized model ({brief(quantized)})", hint=FLOATS_NEEDED)
    everything = _tensors_below(content)
    if not everything:
        keys = ", ".join(
            brief(name) if not isinstance(name, str) else brief(name)[1:-1] for name in list(content)[:5]
        )
        raise ModelError(f"{path} holds no weights (its keys: {keys or 'none'})", hint=_SAVE_AGAIN)
    averaged = list(dict.fromkeys(name.split(".")[0] for name in everything if is_averaged(name)))
    if use_ema and not averaged:
        raise ModelError(f"{path} has no EMA weights (state_dict_ema)", hint="leave --use-ema out")
    if not use_ema and all(map(is_averaged, everything)):
        raise ModelError(f"{path} has only EMA weights ({averaged[0]})", hint="add --use-ema to load them")
    notes = []
    containers = [name for name in averaged if isinstance(content.get(name), dict)]
    if containers and not use_ema:
        notes.append(f"{path.name} also has EMA weights ({containers[0]}): --use-ema loads them.")
    args, others = options_of(content.get("args")), other_options(content)
    return Checkpoint(
        path=path,
        state_dict=_tensors_below(held),
        everything=everything,
        averaged=key is not None and is_averaged(key),
        use_ema=use_ema,
        architecture=model_of_training(names_of(content, args, others.values)),
        args=args,
        other_options=others,
        notes=tuple(notes),
    )


_LARGEST_CONFIG = 16 * 10**6


def with_config(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the options in the config.json of its folder, if timm or transformers saved it there."""
    path = checkpoint.path.with_name("config.json")
    try:
        config = parse_json(read_file(path, _LARGEST_CONFIG).decode("utf-8-sig"))
    except (OSError, ValueError):  # of something else
        return checkpoint
    if not isinstance(config, dict) or not {"architecture", "pretrained_cfg"} <= config.keys():
        return checkpoint
    others = checkpoint.other_options.with_values(
        {"num_classes": config.get("num_classes"), **other_options(config).values}
    )
    architecture = checkpoint.architecture or model_of_training(names_of(config, {}, {}))
    return replace(checkpoint, architecture=architecture, other_options=others)


def _read_file(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    return read_pickle(path, _SAVE_AGAIN, ModelError)


_LARGEST_INDEX = 16 * 10**6


def _read_shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all files that an index names; each must be in its folder.

    Raises:
        ModelError: the index is damaged, or a file or a tensor that it names is missing.
    """
    try:
        index = parse_json(read_file(path, _LARGEST_INDEX).decode("utf-8-sig"))
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path} cannot be read: {first_line(exc)}", hint=_SAVE_SHARDS) from exc
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise ModelError(f"{path} does not list files of weights (weight_map)", hint=_SAVE_SHARDS)
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        if Path(name).name != name or not name.lower().endswith(CHECKPOINT_SUFFIXES):
            raise ModelError(
                f"{path} names {brief(name)}, not a weights file in its folder", hint=_SAVE_SHARDS
            )
        shard = path.with_name(name)
        check_checkpoint(shard, f"{path.name}: ")
        tensors |= tensors_of(_read_file(shard))
    missing = next((name for name in files if name not in tensors), None)
    if missing is not None:
        raise ModelError(f"{path} lists {brief(missing)}, which {files[missing]} lacks", hint=_SAVE_SHARDS)
    return tensors


_SAVE_SHARDS = "copy all files of the model again, or save it to one file with max_shard_size='100GB'"


def is_averaged(name: str) -> bool:
    """Whether a key, a prefix or a tensor's name has the word `ema`."""
    return "ema" in re.split(r"[._]", name.lower())


def _key_of_weights(content: Mapping[Any, Any], use_ema: bool) -> str | None:
    """The key of a file under which the weights are; None if the file's own keys are names or several hold tensors."""
    holding = [
        key
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, dict) and _tensors_below(value)
    ]
    if use_ema:
        return next(filter(is_averaged, holding), None)
    holding = [key for key in holding if not is_averaged(key)]
    plain = [key for key in _PLAIN if key in holding]
    return plain[0] if plain else holding[0] if len(holding) == 1 else None


_MOST_LEVELS = 4
_MOST_DICTS = 10_000
"""Limits of nested dicts: a pickle may have dicts that hold each other."""


def _tensors_below(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """All tensors of nested dicts; their names begin with the keys that they are under."""
    tensors: dict[str, Tensor] = {}
    waiting: list[tuple[str, int, Mapping[Any, Any]]] = [("", 0, content)]
    for prefix, level, held in waiting:
        tensors |= {prefix + name: tensor for name, tensor in tensors_of(held).items()}
        if level < _MOST_LEVELS and len(waiting) < _MOST_DICTS:
            waiting += [
                (f"{prefix}{key}.", level + 1, value)
                for key, value in held.items()
                if isinstance(key, str) and isinstance(value, dict)
            ]
    return tensors


_SAVE_AGAIN = "save model.state_dict() with torch.save or safetensors"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _check_size(path, ModelError)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as exc:
        raise ModelError(
            f"{path} is damaged or not a safetensors file: {first_line(exc)}",
            hint="copy or save the weights again",
        ) from exc
    if not tensors:
        raise ModelError(f"{path} holds no weights", hint=_SAVE_AGAIN)
    return tensors


def check_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights are dense real numbers, not integers.

    Raises:
        ModelError: the first tensor that is not.
    """
    import torch

    for name, tensor in state.items():
        kinds = {
            "on the meta device and has no values": tensor.is_meta,
            "sparse": tensor.layout is not torch.strided or tensor.is_nested,
            "quantized": tensor.is_quantized,
            "complex": tensor.is_complex(),
            f"{str(tensor.dtype).removeprefix('torch.')}, without the scales of its values": "float8"
            in str(tensor.dtype),
        }
        kind = next((kind for kind, applies in kinds.items() if applies), None)
        if kind:
            raise ModelError(f"{path}: the tensor {brief(name)} is {kind}", hint=_SAVE_DENSE)
        if not tensor.is_floating_point() and name.rpartition(".")[2] in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(f"{path}: the tensor {brief(name)} is {kind}, not float", hint=FLOATS_NEEDED)


_FLOATS = ("weight", "bias", "running_mean", "running_var")
"""Last parts of names of weights and statistics."""
FLOATS_NEEDED = "export the float weights; timm's model has no scales for the integers of a quantized model"
_SAVE_DENSE = "save dense float32 weights, with torch.save or safetensors"


def read_pickle(path: Path, hint: str, error: type[TimmxError]) -> Any:
    """Read tensors, plain containers and options of trainers with torch.load and `weights_only`, to the CPU.

    Tensors are mapped into memory where possible, so that only the used ones are read from disk.

    Args:
        path: the file.
        hint: how to save such a file, such as `save model.state_dict() with torch.save`.
        error: the class of the error.

    Raises:
        TimmxError: `error`; the file is damaged, is not from torch.save, or would run code.
    """
    _check_size(path, error)
    is_zip = _check_archive(path, hint, error)
    import torch

    try:
        with torch.serialization.safe_globals(safe_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as exc:
        named = re.search(r"GLOBAL ([\w.]+)", str(exc))
        culprit = named[1] if named else _first_global(path)
        if culprit:
            raise error(
                f"{path} was refused: it holds more than tensors, and loading it would run code ({culprit})",
                hint=f"if you trust its origin, {hint} there",
            ) from exc
        raise error(f"{path} is damaged or not a file of torch.save", hint=hint) from exc
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as exc:
        if "TorchScript" in str(exc):
            raise error(f"{path} is a TorchScript program, not tensors", hint=hint) from exc
        if "legacy .tar" in str(exc):
            raise error(f"{path} has the format of PyTorch before 0.1.10", hint=hint) from exc
        reason = (
            "" if isinstance(exc, LookupError) else f": {first_line(exc)}"
        )  # a KeyError's text is only a number
        raise error(f"{path} is damaged or not a file of torch.save{reason}", hint=hint) from exc


def _check_size(path: Path, error: type[TimmxError]) -> None:
    """Check that a file of tensors fits into this machine's memory, before its header or pickle allocates them.

    A file of a few blocks on disk can have any size.

    Raises:
        TimmxError: `error`; it does not fit.
    """
    size, memory = path.stat().st_size, memory_bytes()
    if memory is not None and size > memory:
        raise error(
            f"{path} has {size_text(size)}, and this machine has {size_text(memory)} of memory",
            hint="use a machine with more memory, or save only the weights of the model",
        )


_LARGEST_PICKLE = 2**28
_MOST_MEMBERS = 200_000
"""Limits of an archive of torch.save: bytes of the member that describes its tensors, and the number of members."""


def _check_archive(path: Path, hint: str, error: type[TimmxError]) -> bool:
    """Check the sizes that a ZIP archive states before PyTorch allocates them; whether it is one.

    torch.save compresses nothing. A compressed member of a few MB can have any size.

    Raises:
        TimmxError: `error`; the archive is damaged, or a member is compressed or too large.
    """
    with open_file(path) as file:
        if not zipfile.is_zipfile(file):
            return False
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as exc:
            raise error(
                f"{path} is damaged or not a file of torch.save: {first_line(exc)}", hint=hint
            ) from exc
        size = os.fstat(file.fileno()).st_size
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise error(f"{path} is a TorchScript program, not tensors", hint=hint)
    for member in members:
        name = brief(member.filename)
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise error(f"{path} is not a file of torch.save: its member {name} is compressed", hint=hint)
        if member.file_size > (_LARGEST_PICKLE if member.filename.endswith(".pkl") else size):
            raise error(
                f"{path} is damaged or not a file of torch.save: its member {name} has "
                f"{size_text(member.file_size)}",
                hint=hint,
            )
    if len(members) > _MOST_MEMBERS or sum(member.file_size for member in members) > size:
        raise error(f"{path} is damaged or not a file of torch.save: its members overlap", hint=hint)
    return True


def _first_global(path: Path) -> str:
    """The first import of a pickle, found without running it; empty if it imports nothing."""
    words: list[str] = []
    try:
        with open_file(path) as file:
            for operation, argument, _ in pickletools.genops(file):
                if operation.name == "GLOBAL":
                    return str(argument).replace(" ", ".")
                if operation.name == "STACK_GLOBAL":
                    return ".".join(words[-2:])
                if isinstance(argument, str):
                    words.append(argument)
    except ValueError:  # not a pickle
        return ""
    return ""


def tensors_of(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The entries of a state dict that are tensors."""
    import torch

    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
