"""Fits a checkpoint's tensors to a model, or raises an error with the differences and a hint."""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timmx.errors import ModelError
from timmx.model.build import cfg_of
from timmx.model.checkpoint import FLOATS_NEEDED, check_tensors, tensors_of
from timmx.model.selection import count_keys, select_tensors, some_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn

    from timmx.model.checkpoint import Checkpoint


def fit_state_dict(
    checkpoint: Checkpoint, model: nn.Module, spare: Collection[str] = (), new: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A complete state dict for the model from a checkpoint, and notes on what was loaded.

    If the names do not fit, timm's conversion for the model's family is tried (`checkpoint_filter_fn`: names of
    original repositories, position embeddings of another size).

    Args:
        checkpoint: the weights.
        model: a timm model, possibly on the meta device.
        spare: names that may be unused, such as the classifier's if the model has none.
        new: names that keep the model's own tensors, such as those of a new classifier.

    Raises:
        ModelError: the checkpoint does not fit, with the keys that are missing, unexpected or of another shape.
    """
    whole = model.state_dict()
    target = {name: tensor for name, tensor in whole.items() if name not in new}
    spare = {*spare, *new, *(name for name, _ in model.named_buffers())}
    plain, notes = select_tensors(checkpoint, target, needed_of(target))
    check_tensors(plain, checkpoint.path)
    auxiliary = [name for name in plain if _AUXILIARY in name.split(".") and name not in target]
    if auxiliary:
        plain = {name: tensor for name, tensor in plain.items() if name not in set(auxiliary)}
        keys = f"{count_keys(len(auxiliary))} ({some_of(auxiliary)})"
        notes = (
            *notes,
            f"{checkpoint.path.name}: not loaded: {keys} of batch norms for training only (split_bn).",
        )
    misfit = _Misfit.between(plain, target, spare)
    if misfit.fits:
        check_types(checkpoint, plain, target)
        return _complete(plain, target, whole), notes
    converted = _converted(plain, model)
    remaining = misfit if converted is None else _Misfit.between(converted, target, spare)
    if converted is not None and remaining.fits:
        note = f"{checkpoint.path.name} was converted to timm's names and shapes"
        resized = [name for name, *_ in misfit.reshaped]
        if resized:
            note += f"; resized from another input size: {some_of(resized)}"
        check_types(checkpoint, converted, target)
        return _complete(converted, target, whole), (*notes, note + ".")
    raise _misfit_error(checkpoint, model, min(misfit, remaining, key=_Misfit.count))


_AUXILIARY = "aux_bn"
"""timm's split_bn has a batch norm for each augmentation; in eval mode only the main one is used."""


def needed_of(target: Collection[str]) -> list[str]:
    """The names of a model that a file must have."""
    return [name for name in target if not _is_counter(name)]


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
                if name in state and state[name].shape != tensor.shape and not _is_counter(name)
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


def _complete(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], whole: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensor of every name of the model; step counters that are missing or of another shape are 0."""
    import torch

    complete = {}
    for name, tensor in whole.items():
        if name not in target:
            complete[name] = tensor
        elif name in state and state[name].shape == tensor.shape:
            complete[name] = state[name]
        else:
            complete[name] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    return complete


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
    """Check that the weights and statistics of a model are finite numbers, and variances not negative.

    A buffer, such as a mask, may hold infinity.

    Args:
        model: on any device.
        where: the source of the weights, for the message.

    Raises:
        ModelError: the first tensor that has NaN or infinity, or a negative variance.
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
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise ModelError(
                f"{where}: the tensor {name} is a variance with negative values",
                hint="the weights are damaged; copy or save them again",
            )


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
        parts.append(f"{count_keys(len(misfit.missing))} missing ({some_of(misfit.missing)})")
    if misfit.unexpected:
        parts.append(f"{count_keys(len(misfit.unexpected))} unexpected ({some_of(misfit.unexpected)})")
    if misfit.reshaped:
        shapes = [
            f"{name}: {_shape(file)} in the file, {_shape(own)} in the model"
            for name, file, own in misfit.reshaped
        ]
        parts.append(f"{count_keys(len(misfit.reshaped))} of another shape ({some_of(shapes)})")
    message = f"{checkpoint.path} does not fit {architecture}: {'; '.join(parts)}"
    hint = _flags_hint(cfg, model, misfit)
    if not hint and checkpoint.architecture and checkpoint.architecture.split(".")[0] != architecture:
        hint = f"export {checkpoint.architecture}, the architecture stated in the checkpoint"
    if re.search(r"-\d+-of-\d+\.", checkpoint.path.name):
        hint = "it is one of several files: put all of them and their .index.json in one folder, and name the index"
    return ModelError(message, hint=hint or "use the name of the model that it was saved from")


def _flags_hint(cfg: Mapping[str, Any], model: nn.Module, misfit: _Misfit) -> str:
    """The flags that make the checkpoint fit, if only the classifier or the stem differs."""
    classifier, stem = layers(cfg.get("classifier")), layers(cfg.get("first_conv"))
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


def layers(names: str | Collection[str] | None) -> tuple[str, ...]:
    """The layers in timm's `classifier` or `first_conv`."""
    return (names,) if isinstance(names, str) else tuple(names or ())


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
