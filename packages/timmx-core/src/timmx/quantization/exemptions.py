"""Chooses the layers that stay out of integers because integers cost too much accuracy there, by measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")

_TARGET_DB = 20.0
"""Below this ratio more than one answer in ten changes."""
_MAX_SHARE = 1 / 3
"""The largest share of the layers that may be exempted."""


def exempt_layers(
    layers: Sequence[Item],
    measure: Callable[[frozenset[Item]], float],
    progress: Callable[[str], None],
    target_db: float = _TARGET_DB,
) -> tuple[frozenset[Item], float]:
    """The layers to exempt so that a file reaches a ratio: as few as necessary, a third of them at most.

    If the file does not reach it with all layers in integers, each layer is measured alone in integers, and those that
    lose most are exempted, twice as many each time.

    Args:
        layers: all that can be in integers.
        measure: the signal-to-noise ratio in dB of the file without these layers in integers.
        progress: receives the name of each long step.
        target_db: the ratio to reach.

    Returns:
        The layers to exempt, and the ratio with them, which may be less than the target.
    """
    best, ratio = frozenset[Item](), measure(frozenset())
    if ratio >= target_db:
        return best, ratio
    progress(f"Measuring the quantization loss of each of {len(layers)} layers")
    everything = frozenset(layers)
    alone_db = {layer: measure(everything - {layer}) for layer in layers}
    worst_first = sorted(layers, key=alone_db.__getitem__)
    count, most = 0, int(len(layers) * _MAX_SHARE)
    while ratio < target_db and count < most:
        count = min(max(1, 2 * count), most)
        candidate = frozenset(worst_first[:count])
        candidate_ratio = measure(candidate)
        if candidate_ratio > ratio:
            best, ratio = candidate, candidate_ratio
    progress("Quantizing")
    return best, ratio
