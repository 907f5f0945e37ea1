"""The options of `timmx ncnn`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer


class NcnnMode(StrEnum):
    """How weights are stored, and what ncnn may compute with."""

    FP32 = "fp32"
    FP16 = "fp16"


@dataclass(frozen=True, kw_only=True)
class NcnnOptions:
    """The options that only `timmx ncnn` has."""

    mode: Annotated[
        NcnnMode,
        typer.Option(
            "--mode",
            help="fp16 halves the file size: weights are stored in 16 bits, in which devices that can also compute.",
        ),
    ] = NcnnMode.FP32
