"""The options of `timmx torch-export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True)
class TorchExportOptions:
    """Options of `timmx torch-export` alone."""

    strict: Annotated[
        bool,
        typer.Option("--strict", help="Trace through TorchDynamo, which refuses Python side effects."),
    ] = False
