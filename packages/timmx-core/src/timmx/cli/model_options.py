"""The options that say which weights and which shape a model has, for commands that take `--against MODEL`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from timmx.coercion import defaults, option_types
from timmx.options import MODEL_OPTIONS, ExportRequest

if TYPE_CHECKING:
    from collections.abc import Callable


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--pretrained`, `--checkpoint` and the like, as every export has them.

    They reach the command as one keyword, `model_options`: a mapping by name, whatever was not given left out.
    """
    types, preset = option_types(ExportRequest), defaults(ExportRequest)
    signature = inspect.signature(command, eval_str=True)

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in MODEL_OPTIONS}
        command(model_options={k: v for k, v in given.items() if v != preset[k]}, **values)

    own = [item for name, item in signature.parameters.items() if name != "model_options"]
    further = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=preset[name], annotation=types[name])
        for name in MODEL_OPTIONS
    ]
    positional = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own]
    parameters = [*positional, *further]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in parameters}
    return run
