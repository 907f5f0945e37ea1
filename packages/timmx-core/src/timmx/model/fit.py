"""Fits a checkpoint's tensors to a model, or raises an error with the differences and a hint."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.errors import ModelError
from timmx.model.build import cfg_of
from timmx.model.checkpoint import FLOATS_NEEDED, tensors_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

    from timmx.model.checkpoint import Checkpoint


def fit_state_dict(
    checkpoint: Checkpoint, model: nn.Module, spare: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A complete state dict for the model from a checkpoint, and notes on conversions.

    If the names do not fit, timm's conversion for the model's family is tried (`checkpoint_filter_fn`: names of
    original repositories, position embeddings of another size).

    Args:
        checkpoint: the weights.
        model: a timm model, possibly on the meta device.
        spare: names that may be unused, such as the classifier's if the model has none.

    Raises:
        ModelError: the checkpoint does not fit, with the keys that are missing, unexpected or of another shape.
    """
    target = model.state_dict()
    spare = set(spare) | {name for name, _ in model.named_buffers()}
    state, note = _under_prefix(checkpoint, target, spare)
    notes = (note,) if note else ()
    plain = _without_common_prefix(state, target)
    misfit = _Misfit.between(plain, target, spare)
    if misfit.fits:
        check_types(checkpoint, plain, target)
        return _complete(plain, target), notes
    converted = _converted(plain, model)
    remaining = misfit if converted is None else _Misfit.between(converted, target, spare)
    if converted is not None and remaining.fits:
        note = f"{checkpoint.path.name} was converted to timm's names and shapes"
        resized = [name for name, *_ in misfit.reshaped]
        if resized:
            note += f"; resized from another input size: {_some(resized)}"
        check_types(checkpoint, converted, target)
        return _complete(converted, target), (*notes, note + ".")
    raise _misfit_error(checkpoint, model, min(misfit, remaining, key=_Misfit.count))


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
        return self.count() == 0

    def count(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)


def _is_counter(name: str) -> bool:
    """Whether it is batch norm's step counter, which old checkpoints lack and inference does not use."""
    return name.endswith("num_batches_tracked")


def _complete(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensor of every name of the model; missing step counters are 0."""
    import torch

    return {
        name: state[name] if name in state else torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in target.items()
    }


def _under_prefix(
    checkpoint: Checkpoint, target: Mapping[str, Tensor], spare: Collection[str]
) -> tuple[dict[str, Tensor], str]:
    """The tensors under the prefix that has all names of the model, and a note on the others.

    Lightning stores the model as an attribute of a module, next to losses and metrics; others store several models in
    one file. Without such a prefix, all tensors.

    Raises:
        ModelError: several prefixes have all names of the model.
    """
    state = checkpoint.state_dict
    needed = {name for name in target if name not in spare or name in state}
    matching: dict[str, set[str]] = {}
    for name in state:
        parts = name.split(".")
        for start in range(len(parts)):
            own = ".".join(parts[start:])
            if own in target:
                matching.setdefault(".".join(parts[:start]), set()).add(own)
    complete = [prefix for prefix, names in matching.items() if needed <= names]
    if "" in complete or not complete:
        return state, ""
    if len(complete) > 1:
        complete = [prefix for prefix in complete if "ema" not in prefix.lower()] or complete
    if len(complete) > 1:
        raise ModelError(
            f"{checkpoint.path} holds several models that match: {', '.join(sorted(complete))}",
            hint="save the state dict of one of them",
        )
    prefix = complete[0] + "."
    others = [name for name in state if not name.startswith(prefix)]
    note = ""
    if others:
        note = (
            f"{checkpoint.path.name}: the weights are the tensors under {prefix.removesuffix('.')}; not loaded: "
            f"{_keys(len(others))} ({_some(others)})."
        )
    return {
        name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)
    }, note


def check_types(checkpoint: Checkpoint, state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Check that no integers stand for the model's floats.

    Args:
        checkpoint: the file, for the message.
        state: tensors by the model's names.
        target: the model's state dict.

    Raises:
        ModelError: the first such tensor.
    """
    for name, own in target.items():
        tensor = state.get(name)
        if tensor is not None and own.is_floating_point() and not tensor.is_floating_point():
            raise ModelError(
                f"{checkpoint.path}: the tensor {name} is {_type(tensor)}, where the model has {_type(own)}",
                hint=FLOATS_NEEDED,
            )


def check_finite(model: nn.Module, where: object) -> None:
    """Check that the weights and statistics of a model are finite numbers.

    A buffer, such as a mask, may hold infinity.

    Args:
        model: on any device.
        where: the source of the weights, for the message.

    Raises:
        ModelError: the first tensor that has NaN or infinity.
    """
    import torch

    weights = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        infinite = name not in weights and "running_" not in name
        if torch.isnan(tensor).any() or not (infinite or torch.isfinite(tensor).all()):
            raise ModelError(
                f"{where}: the tensor {name} has NaN or infinity",
                hint="training may have diverged or float16 overflowed; use an earlier checkpoint",
            )


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _without_common_prefix(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove a prefix that all names share and the model lacks, such as Lightning's `model.`."""
    firsts = {name.split(".")[0] for name in state}
    if len(firsts) != 1 or firsts & {name.split(".")[0] for name in target}:
        return state
    prefix = firsts.pop() + "."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _converted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    """The state after timm's conversion for this family; None if there is none or it fails."""
    module = sys.modules[type(model).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is None:
        return None
    arguments = (dict(state), model)[: min(2, len(inspect.signature(convert).parameters))]
    try:
        return tensors_of(convert(*arguments))
    except Exception:  # it is written for files of its own family, and may raise anything for others
        return None


def _misfit_error(checkpoint: Checkpoint, model: nn.Module, misfit: _Misfit) -> ModelError:
    cfg = cfg_of(model)
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
    message = f"{checkpoint.path} does not fit {architecture}: {'; '.join(parts)}"
    hint = _flags_hint(cfg, model, misfit)
    if not hint and checkpoint.architecture and checkpoint.architecture.split(".")[0] != architecture:
        hint = f"export {checkpoint.architecture}, the architecture stated in the checkpoint"
    return ModelError(message, hint=hint or "use the name of the model that it was saved from")


def _flags_hint(cfg: Mapping[str, Any], model: nn.Module, misfit: _Misfit) -> str:
    """The flags that make the checkpoint fit, if only the classifier or the stem differs."""
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
    return "use " + " and ".join(f"{flag} {value}" for flag, value in flags.items())


def _layers(names: str | Collection[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _keys(count: int) -> str:
    return f"{count} key{'s' * (count != 1)}"


def _some(names: Collection[str], most: int = 3) -> str:
    return ", ".join(list(names)[:most]) + (", ..." if len(names) > most else "")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
