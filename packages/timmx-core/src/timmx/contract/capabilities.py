"""What a format can hold, in which arithmetic, and what this machine lacks for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Precision(StrEnum):
    """The arithmetic of an artifact, as its metadata and the floors of verification name it."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8_WEIGHTS = "int8-weights"
    """8-bit weights, float activations: weight-only, or quantized while running ("dynamic")."""
    INT8 = "int8"
    INT16X8 = "int16x8"
    """16-bit activations, 8-bit weights."""
    FP8 = "fp8"
    INT6_WEIGHTS = "int6-weights"
    INT4_WEIGHTS = "int4-weights"


@dataclass(frozen=True)
class Problem:
    """Something that the environment lacks, and the command that fixes it."""

    message: str
    fix: str
    partial: bool = False
    """The backend does part of its work all the same: `doctor` shows it as a limit, not as a problem."""


NOT_DECLARED = "not declared by this backend"
"""The default of every capability that is added after contract 1's first release: closed until it is claimed."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a format can hold: True, or the reason why not, which the user is shown word for word."""

    dynamic_batch: Literal[True] | str = True
    dynamic_batch_from_one: Literal[True] | str = True
    """An explicit `--batch-size 1` beside `--dynamic-batch`."""
    several_outputs: Literal[True] | str = True
    cuda: Literal[True] | str = True
    """Tracing, exporting and verifying with `--device cuda`."""
    reproducible: Literal[True] | str = True
    """The same export twice gives the same bytes."""
