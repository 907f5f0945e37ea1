"""Refuses input sizes that a model's name rules out, without importing torch: patches or windows do not cover them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from timmx.errors import ConfigurationError
from timmx.model.index import load_index

if TYPE_CHECKING:
    from timmx.contract import ExportRequest

_NAMED = ("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos", "swin_transformer")
"""Modules of timm whose models with `patchN` in their names take multiples of N only (timm 1.0.31), whatever img_size
they are built with. Others pad (vision_transformer_sam, naflexvit), or have no such rule."""

_STEPS = (
    ("cait", "", 16),
    ("efficientformer_v2", "", 32),
    ("gcvit", "", 32),
    ("hiera", "", 32),
    ("levit", r"_s8$", 8),
    ("levit", "", 16),
    ("maxxvit", r"max+vit", 32),
    ("swin_transformer_v2", "", 4),
    ("byoanet", r"haloregnet", 224),
    ("byoanet", r"halo", 256),
)
"""Modules of timm, parts of names, and the number of which these models take multiples only, whatever img_size they are
built with (timm 1.0.31); the first row that fits counts."""


def check_patches(request: ExportRequest) -> None:
    """Check that a model's patches and windows cover the input, if its name says how large they are.

    `load_model` checks the rest.

    Raises:
        ConfigurationError: a side is not a multiple of them; the hint has the nearest sizes that are.
    """
    size = request.input_size
    if size is None or not isinstance(request.model, str) or request.model_kwargs:
        return
    rule = rule_of(request.model)
    if rule is None or not any(side % rule.step for side in size[1:]):
        return
    step = rule.step
    lower = tuple(side // step * step for side in size[1:])
    upper = tuple(-(-side // step) * step for side in size[1:])
    sizes = [
        f"--input-size {size[0]} {height} {width}" for height, width in (lower, upper) if height and width
    ]
    raise ConfigurationError(
        f"{request.model} cannot take {size[1]} x {size[2]} pixels: {rule.reason}",
        hint=f"use the nearest valid size: {' or '.join(sizes)}",
    )


class Rule(NamedTuple):
    """Which sizes a model takes: multiples of `step` pixels; `reason` says why not others."""

    step: int
    reason: str


def rule_of(name: str) -> Rule | None:
    """The rule of a model's input sizes, if its name and its family decide them."""
    architecture = name.partition(".")[0]
    index = load_index(build=False)
    model = index.models.get(architecture) if index else None
    if model is None:
        return None
    for family, part, step in _STEPS:
        if family == model.family and re.search(part, architecture):
            return Rule(step, f"it is not a multiple of {step}, which the model's patches and windows need")
    patch = re.search(r"_patch(\d+)(?=_|$)", architecture)
    if patch is None or model.family not in _NAMED:
        return None
    return Rule(int(patch[1]), f"patches of {patch[1]} x {patch[1]} pixels do not cover it")
