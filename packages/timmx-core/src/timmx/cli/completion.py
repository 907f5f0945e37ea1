"""Completion of model names in the shell."""

from __future__ import annotations

import copy
from typing import Annotated, Any, get_args


def complete_model_name(incomplete: str) -> list[str]:
    """Model names that start with `incomplete`, from the cached index only."""
    from timmx.model import completions

    return completions(incomplete)


def completing_models(annotated: Any) -> Any:
    """The `Annotated[..., typer.Argument(...)]` with shell completion of model names added."""
    kind, argument = get_args(annotated)
    argument = copy.copy(argument)
    argument.autocompletion = complete_model_name
    return Annotated[kind, argument]
