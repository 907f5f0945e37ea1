"""Selects a model's tensors in a weights file: under a prefix or a key, the plain ones or their average."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from timmx.errors import ModelError
from timmx.model.checkpoint import is_averaged

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from timmx.model.checkpoint import Checkpoint

_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"))
"""What torch.compile, FSDP, activation checkpointing and DDP insert into the names of a module, at any place."""

_LOSSES = re.compile(
    r"(\w+_)?(criterion|loss|loss_fn|loss_func|metric|metrics|acc|accuracy|n_averaged)(_\w+)?"
)
"""Modules next to a model in the state dict of its trainer."""


def select_tensors(
    checkpoint: Checkpoint, target: Mapping[str, Tensor], needed: Collection[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors that belong to the model, by its own names, and notes on the others.

    Lightning stores the model as an attribute of a module, next to losses and metrics; others store several models in
    one file. The prefix that has all needed names is taken; of several, the one with the model's shapes. If there is
    none, that with most of the names, otherwise all tensors.

    Args:
        checkpoint: the file.
        target: the model's state dict, possibly on the meta device.
        needed: those of its names that the file must have.

    Raises:
        ModelError: several prefixes have all names, or the file has only EMA weights or none, unlike requested.
    """
    rejected: list[str] = []
    for state, all_averaged in ((checkpoint.state_dict, checkpoint.averaged), (checkpoint.everything, False)):
        names = _names_by_prefix(state, target)
        complete = [prefix for prefix, own in names.items() if own.keys() >= set(needed)] if needed else []
        wanted = [p for p in complete if all_averaged or is_averaged(p) == checkpoint.use_ema]
        rejected += [p for p in complete if p not in wanted]
        if len(wanted) > 1:
            fitting = [p for p in wanted if _same_shapes(names[p], state, target, needed)]
            wanted = fitting or wanted
        if len(wanted) > 1:
            shown = ", ".join(sorted(prefix or "the names without a prefix" for prefix in wanted))
            raise ModelError(
                f"{checkpoint.path} holds several models that match: {shown}",
                hint="save the state dict of one of them",
            )
        if wanted:
            return _under(checkpoint, state, target, wanted[0], [p for p in complete if p != wanted[0]])
    if rejected and checkpoint.use_ema:
        raise ModelError(f"{checkpoint.path} has no EMA weights of this model", hint="leave --use-ema out")
    if rejected:
        raise ModelError(
            f"{checkpoint.path} has only EMA weights ({rejected[0]})", hint="add --use-ema to load them"
        )
    return _nearest(checkpoint, target, needed)


def _names_by_prefix(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """For each prefix, the model's names below it and the file's names of these tensors."""
    names: dict[str, dict[str, str]] = {}
    wrappers = _wrappers(target)
    for name in state:
        parts = name.split(".")
        for start, part in enumerate(parts):
            if part not in wrappers:
                own = _unwrapped(parts[start:], wrappers)
                if own in target:
                    names.setdefault(".".join(parts[:start]), {})[own] = name
    return names


def _wrappers(target: Mapping[str, Tensor]) -> frozenset[str]:
    """The wrappers that can be in a file's names: not those that are a name in the model itself."""
    return _WRAPPERS - {part for name in target for part in name.split(".")}


def _unwrapped(parts: list[str], wrappers: Collection[str]) -> str:
    return ".".join(part for part in parts if part not in wrappers)


def _same_shapes(
    names: Mapping[str, str],
    state: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    needed: Collection[str],
) -> bool:
    return all(state[names[name]].shape == target[name].shape for name in needed)


def _under(
    checkpoint: Checkpoint,
    state: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    prefix: str,
    other_models: Collection[str] = (),
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors under a prefix, and notes on the tensors that are not.

    Raises:
        ModelError: two tensors have the same name without what wrappers insert.
    """
    start = prefix + "." if prefix else ""
    elsewhere = tuple(other + "." for other in other_models if other)
    own: dict[str, Tensor] = {}
    rest = []
    wrappers, modules = _wrappers(target), {name.split(".")[0] for name in target}
    for name, tensor in state.items():
        first = name.split(".")[0]
        of_training = not prefix and first not in modules and _LOSSES.fullmatch(first)
        if not name.startswith(start) or name.startswith(elsewhere) or of_training:
            rest.append(name)
            continue
        short = _unwrapped(name.removeprefix(start).split("."), wrappers)
        if short in own:
            raise ModelError(
                f"{checkpoint.path} holds two tensors {short}, one of a wrapped module",
                hint="save the state dict of one of them",
            )
        own[short] = tensor
    notes = []
    averaged = [name for name in rest if is_averaged(name)]
    if averaged and not checkpoint.use_ema and not checkpoint.notes:
        where = next((p for p in other_models if is_averaged(p)), averaged[0])
        notes.append(f"{checkpoint.path.name} also has EMA weights ({where}): --use-ema loads them.")
    others = [name for name in rest if name not in set(averaged)]
    if others:
        notes.append(
            f"{checkpoint.path.name}: the weights are the tensors under {prefix or 'no prefix'}; not loaded: "
            f"{count_keys(len(others))} ({some_of(others)})."
        )
    return own, tuple(notes)


def _nearest(
    checkpoint: Checkpoint, target: Mapping[str, Tensor], needed: Collection[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors under the prefix that has at least half of the names, otherwise all without a common prefix."""
    state = checkpoint.state_dict
    counts = {
        prefix: len(own.keys() & set(needed))
        for prefix, own in _names_by_prefix(state, target).items()
        if checkpoint.averaged or is_averaged(prefix) == checkpoint.use_ema
    }
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if len(best) == 1 and 2 * most >= len(needed) > 0:
        return _under(checkpoint, state, target, best[0])
    return _without_common_prefix(state, target), ()


def _without_common_prefix(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that all names share and the model lacks, such as `model.` of Lightning."""
    own, wrappers = {name.split(".")[0] for name in target}, _wrappers(target)
    state = {_unwrapped(name.split("."), wrappers): tensor for name, tensor in state.items()}
    while len(firsts := {name.split(".")[0] for name in state}) == 1 and not firsts & own:
        prefix = firsts.pop() + "."
        if not all(name.startswith(prefix) for name in state):
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def count_keys(count: int) -> str:
    """`1 key`, `2 keys`."""
    return f"{count} key{'s' * (count != 1)}"


def some_of(names: Collection[str], most: int = 3) -> str:
    """The first names of a list."""
    return ", ".join(list(names)[:most]) + (", ..." if len(names) > most else "")
