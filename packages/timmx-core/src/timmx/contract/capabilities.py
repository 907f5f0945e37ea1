"""Precisions, capabilities of a format, and problems of the environment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Precision(StrEnum):
    """The arithmetic of an artifact, as named in its metadata and by verification."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8_WEIGHTS = "int8-weights"
    """8-bit weights and float activations: weight-only, or quantized at run time ("dynamic")."""
    INT8 = "int8"
    INT16X8 = "int16x8"
    """16-bit activations, 8-bit weights."""
    FP8 = "fp8"
    INT6_WEIGHTS = "int6-weights"
    INT4_WEIGHTS = "int4-weights"


@dataclass(frozen=True)
class Problem:
    """A requirement that the environment does not meet, and the command that fixes it."""

    message: str
    fix: str
    partial: bool = False
    """The backend still works in part: `doctor` shows a limit, not a problem."""


@dataclass(frozen=True)
class WeightsLimit:
    """The most float32 weights that one file of a format holds, in bytes, and a hint for larger models."""

    size_bytes: int
    hint: str


NOT_DECLARED = "not declared by this backend"
"""The default of capabilities that are added after the first release of contract 1: off until a backend declares it."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a format supports: True, or the reason why not, which is shown to the user."""

    dynamic_batch: Literal[True] | str = True
    dynamic_batch_from_one: Literal[True] | str = True
    """An explicit `--batch-size 1` with `--dynamic-batch`."""
    larger_batches: Literal[True] | str = True
    """A fixed `--batch-size` above 1."""
    several_outputs: Literal[True] | str = True
    cuda: Literal[True] | str = True
    """Tracing, export and verification with `--device cuda`."""
    reproducible: Literal[True] | str = True
    """Repeating an export gives the same bytes."""
