"""A backend's options and the shared ones, as one function that Typer can register and Python can call."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any, get_args

from timmx.coercion import build, defaults, option_types, reject_unknown
from timmx.errors import BackendError, ConfigurationError
from timmx.options import ExportRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx.contract import ExportBackend
    from timmx.pipeline import ExportResult


def create_command(backend: ExportBackend) -> Callable[..., ExportResult]:
    """The function behind `timmx <backend>` and `timmx.export("<backend>", ...)`.

    Its first parameter is `model`; the others are keywords: the shared options, then the backend's own.

    Raises:
        BackendError: the backend takes the name of a shared option for one of its own.
    """
    shared, own = option_types(ExportRequest), option_types(backend.options)
    clashes = sorted(shared.keys() & own.keys())
    if clashes:
        raise BackendError(
            f"The backend {backend.name} has options that the core has too ({', '.join(clashes)}): its "
            "authors must rename them."
        )

    def command(model: Any = None, /, **values: Any) -> ExportResult:
        from timmx.pipeline import export

        if model is not None:
            values["model"] = model
        if values.get("model") is None:
            raise ConfigurationError("Which model? Give a timm name, hf-hub:, local-dir: or a module.")
        reject_unknown(values, [*shared, *own], f"timmx {backend.name}")
        request = build(ExportRequest, {name: value for name, value in values.items() if name in shared})
        options: Any = build(backend.options, {name: value for name, value in values.items() if name in own})
        result = export(backend, request, options)
        if request.json:
            print(json.dumps(result.to_dict(), indent=2))
        return result

    preset = defaults(ExportRequest) | defaults(backend.options)
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY if name in preset else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=preset.get(name, inspect.Parameter.empty),
            annotation=_for_typer(annotation),
        )
        for name, annotation in (shared | own).items()
    ]
    command.__name__ = backend.name.replace("-", "_")
    command.__doc__ = backend.help
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _for_typer(annotation: Any) -> Any:
    """`Any` (a name or a module, in Python) is text on the command line."""
    first, *extras = get_args(annotation)
    return Annotated[(str, *extras)] if first is Any else annotation
