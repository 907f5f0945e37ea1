"""The options of `timmx torch-export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True)
class TorchExportOptions:
    """The options that only `timmx torch-export` has."""

    strict: Annotated[
        bool,
        typer.Option("--strict", help="Trace with TorchDynamo, which rejects Python side effects."),
    ] = False
