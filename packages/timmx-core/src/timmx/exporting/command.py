"""A backend's options and the shared ones, as one function that Typer can register and Python can call."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_args

from timmx.contract import ExportBackend, ExportRequest, Floats, Ints
from timmx.errors import BackendError, ConfigurationError
from timmx.registry import build, defaults, option_types, reject_unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx.exporting.pipeline import ExportResult


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
            f"the backend {backend.name} has options that the core has too ({', '.join(clashes)})",
            hint="ask its authors to rename them",
        )

    def command(model: Any = None, /, **values: Any) -> ExportResult:
        from timmx.exporting.pipeline import export

        if model is not None:
            values["model"] = model
        values.setdefault("model", None)
        reject_unknown(values, [*shared, *own], f"timmx {backend.name}")
        request = build(ExportRequest, {name: value for name, value in values.items() if name in shared})
        options: Any = build(backend.options, {name: value for name, value in values.items() if name in own})
        source = backend.source_artifact(options)
        if request.model is None and source is None:
            instead = ", or the option that names an earlier export" if _takes_source_artifact(backend) else ""
            raise ConfigurationError(
                f"timmx {backend.name}: no model is given",
                hint=f"give a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER{instead}",
            )
        if request.model is not None and source is not None:
            raise ConfigurationError(
                f"{source} holds its own model, and {request.source} is given too",
                hint=f"leave {request.source} out, or leave out the option that names the file",
            )
        result = export(backend, request, options)
        if request.json:
            print(json.dumps(result.to_dict(), indent=2))
        return result

    preset = defaults(ExportRequest) | defaults(backend.options)
    if _takes_source_artifact(backend):
        preset = {"model": None} | preset
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "model" else inspect.Parameter.KEYWORD_ONLY,
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


def _takes_source_artifact(backend: ExportBackend) -> bool:
    return type(backend).source_artifact is not ExportBackend.source_artifact


def command_words(backend: str, request: ExportRequest, options: Any) -> list[str]:
    """The command line that asks for the same export; a module that was handed in is named by its class.

    Args:
        backend: its name.
        request: the shared options.
        options: the backend's own.
    """
    words = ["timmx", backend]
    if request.model is not None:
        words.append(request.source)
    for values in (request, options):
        cls: type = type(values)
        preset = defaults(cls)
        for name, annotation in option_types(cls).items():
            value = getattr(values, name)
            if name in ("model", "json", "force") or value == preset.get(name):
                continue
            words += _given(_flag(annotation), value)
    return words


def _flag(annotation: Any) -> str:
    """The first spelling of an option; inside Annotated, Typer keeps it where a default would be."""
    option = next(extra for extra in get_args(annotation) if hasattr(extra, "param_decls"))
    return str(next(iter((option.default, *option.param_decls))))


def _given(flag: str, value: Any) -> list[str]:
    """One option as words of a command line."""
    yes, _, no = flag.partition("/")
    if isinstance(value, bool):
        return [yes if value else no]
    if isinstance(value, (Floats, Ints)):
        return [yes, ",".join(f"{item:g}" for item in value)]
    if isinstance(value, Mapping):
        return [word for key, item in value.items() for word in (yes, f"{key}={item!r}")]
    if isinstance(value, list):
        return [word for item in value for word in (yes, str(item))]
    if isinstance(value, tuple):
        return [yes, *map(str, value)]
    return [yes, str(value)]


def _for_typer(annotation: Any) -> Any:
    """`Any` (a name or a module, in Python) is text on the command line."""
    first, *extras = get_args(annotation)
    return Annotated[(str, *extras)] if first is Any else annotation
