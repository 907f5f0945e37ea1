"""The options of `timmx torchscript`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True)
class TorchScriptOptions:
    """Options specific to `timmx torchscript`."""

    freeze: Annotated[
        bool,
        typer.Option("--freeze/--no-freeze", help="Inline everything into one graph, weights as constants."),
    ] = True
    optimize_numerics: Annotated[
        bool,
        typer.Option(
            "--optimize-numerics",
            help="Let freezing fold operations, which changes results by rounding errors.",
        ),
    ] = False
