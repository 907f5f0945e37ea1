"""MIL's classifier output: the label, and a probability per label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timmx_coreml.mil.operations.registry import Labels, operation

if TYPE_CHECKING:
    from torch import Tensor


@operation(result="probabilities")
def classify(probabilities: Tensor, classes: Labels) -> tuple[Any, dict[Any, float]]:
    flat = probabilities.flatten().tolist()
    if len(flat) != len(classes):
        raise ValueError(f"{len(flat)} probabilities for {len(classes)} labels")
    best = max(range(len(flat)), key=flat.__getitem__)
    return classes[best], dict(zip(classes, flat, strict=True))
