"""Refuses input sizes that a model's name rules out, without importing torch: sizes that its patches do not cover."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from timmx.errors import ConfigurationError
from timmx.model.index import load_index

if TYPE_CHECKING:
    from timmx.contract import ExportRequest

_FAMILIES = ("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos", "swin_transformer")
"""Modules of timm whose models with `patchN` in their names take multiples of N only (timm 1.0.31), whatever img_size
they are built with. Others pad (vision_transformer_sam, naflexvit), or have no such rule."""


def check_patches(request: ExportRequest) -> None:
    """Check that patches cover the input, if the model's name says how large they are; `load_model` checks the rest.

    Raises:
        ConfigurationError: a side is not a multiple of the patch; the hint has the nearest sizes that are.
    """
    size = request.input_size
    if size is None or not isinstance(request.model, str) or request.model_kwargs:
        return
    patch = patch_of(request.model)
    if patch is None or not any(side % patch for side in size[1:]):
        return
    lower = tuple(side // patch * patch for side in size[1:])
    upper = tuple(-(-side // patch) * patch for side in size[1:])
    sizes = [
        f"--input-size {size[0]} {height} {width}" for height, width in (lower, upper) if height and width
    ]
    pixels = f"{size[1]} x {size[2]} pixels"
    raise ConfigurationError(
        f"{request.model} cannot take {pixels}: patches of {patch} x {patch} pixels do not cover it",
        hint=f"use the nearest valid size: {' or '.join(sizes)}",
    )


def patch_of(name: str) -> int | None:
    """The side of a model's patches in pixels, if its name says so and its family takes multiples only."""
    architecture = name.partition(".")[0]
    match = re.search(r"_patch(\d+)(?=_|$)", architecture)
    if match is None:
        return None
    index = load_index(build=False)
    model = index.models.get(architecture) if index else None
    return int(match[1]) if model is not None and model.family in _FAMILIES else None
