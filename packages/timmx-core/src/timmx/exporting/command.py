"""The function behind a backend's command: shared options and the backend's own, for Typer and Python."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from timmx.contract import ExportBackend, ExportRequest
from timmx.errors import BackendError, ConfigurationError
from timmx.registry import build, option_specs, reject_unknown, set_signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx.exporting.pipeline import ExportResult


def create_command(backend: ExportBackend) -> Callable[..., ExportResult]:
    """The function behind `timmx <backend>` and `timmx.export("<backend>", ...)`.

    Its first parameter is `model`; the others are keyword-only: the shared options, then the backend's own.

    Raises:
        BackendError: an option of the backend has the name of a shared option.
    """
    shared, own = dict(option_specs(ExportRequest)), dict(option_specs(backend.options))
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
            or_file = (
                ", or the option that names an earlier export" if _takes_source_artifact(backend) else ""
            )
            raise ConfigurationError(
                f"timmx {backend.name}: no model is given",
                hint=f"give a timm name, hf-hub:OWNER/NAME or local-dir:FOLDER{or_file}",
            )
        if request.model is not None and source is not None:
            raise ConfigurationError(
                f"{source} is used instead of MODEL, but {request.source} is given too",
                hint=f"leave {request.source} out, or leave out the option that names the file",
            )
        result = export(backend, request, options)
        if request.json:
            print(json.dumps(result.to_dict(), indent=2))
        return result

    specs = shared | own
    parameters = [spec.parameter() for spec in specs.values()]
    if _takes_source_artifact(backend):
        parameters[0] = specs["model"].parameter(optional=True)
    command.__name__ = backend.name.replace("-", "_")
    command.__doc__ = backend.help
    set_signature(command, parameters)
    return command


def _takes_source_artifact(backend: ExportBackend) -> bool:
    return type(backend).source_artifact is not ExportBackend.source_artifact


def command_words(backend: str, request: ExportRequest, options: Any) -> list[str]:
    """The command line of an export, as words; a module is named by its class.

    Args:
        backend: the backend's name.
        request: the shared options.
        options: the backend's own options.
    """
    words = ["timmx", backend]
    if request.model is not None:
        words.append(request.source)
    for values in (request, options):
        cls: type = type(values)
        for name, spec in option_specs(cls).items():
            value = getattr(values, name)
            if name not in ("model", "json", "force") and value != spec.default:
                words += spec.words(value)
    return words
