"""`timmx <backend> MODEL`: the backend's command, with progress and results on the terminal."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from timmx.cli.completion import completing_models
from timmx.cli.options import MessageOptions
from timmx.cli.output import write, write_json
from timmx.cli.results import summary
from timmx.registry import option_specs, set_signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx.contract import ExportBackend


def export_command(backend: ExportBackend) -> Callable[..., None]:
    """The backend's command with `--verbose` and `--debug`; prints the result on stdout."""
    command = backend.create_command()

    def run(verbose: bool = False, debug: bool = False, **values: Any) -> None:
        from timmx.cli.terminal import working

        as_json = bool(values.pop("json", False))
        with working(verbose or debug):
            result = command(**values)
        if as_json:
            write_json(result.to_dict())
        else:
            write(summary(result))

    own = [
        item.replace(annotation=completing_models(item.annotation)) if item.name == "model" else item
        for item in inspect.signature(command).parameters.values()
    ]
    messages = [spec.parameter() for spec in option_specs(MessageOptions).values()]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    set_signature(run, [*own, *messages])
    return run
