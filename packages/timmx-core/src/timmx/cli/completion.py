"""Completion of model names in the shell."""

from __future__ import annotations

import copy
from typing import Annotated, Any, get_args


def complete_model_name(incomplete: str) -> list[str]:
    """Model names that begin so, from the cached index only."""
    from timmx.model import completions

    return completions(incomplete)


def completing_models(annotated: Any) -> Any:
    """An `Annotated[..., typer.Argument(...)]` whose value the shell completes as a model name."""
    kind, argument = get_args(annotated)
    argument = copy.copy(argument)
    argument.autocompletion = complete_model_name
    return Annotated[kind, argument]
