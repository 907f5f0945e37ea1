"""Recipes: TOML files with the options of exports, and their JSON schema."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from timmx.base import read_file
from timmx.contract import ExportRequest, Floats, Ints
from timmx.errors import ConfigurationError
from timmx.exporting.targets import OF_A_TARGET
from timmx.registry import REQUIRED, OptionSpec, load, option_specs, reject_unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from timmx.contract import ExportBackend

_NOT_IN_A_RECIPE = ("json",)
_LOCAL = "local-dir:"
_LARGEST_RECIPE = 10**6


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe; relative paths are resolved against its folder.

    Attributes:
        models: the models; `timmx export` takes one, `timmx sweep` several.
        output: the output folder; None if the recipe has none.
        options: shared options by name.
        targets: tables with `format` and the options of one target.
    """

    models: tuple[str, ...]
    output: Path | None
    options: Mapping[str, Any]
    targets: tuple[Mapping[str, Any], ...]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; values are checked when they are used.

    Raises:
        BackendError: a target's format is not installed.
        ConfigurationError: the file cannot be read, is not TOML, or has an unknown key.
    """
    try:
        content = tomllib.loads(read_file(path.expanduser(), _LARGEST_RECIPE).decode("utf-8"))
    except OSError as exc:
        raise ConfigurationError(
            f"--recipe {path} cannot be read: {exc.strerror or exc}", hint="name a TOML file that can be read"
        ) from exc
    except RecursionError as exc:
        raise ConfigurationError(f"--recipe {path} is nested too deeply", hint="reduce the nesting") from exc
    except ValueError as exc:  # TOML, UTF-8, or an integer of thousands of digits
        raise ConfigurationError(
            f"--recipe {path} is not valid TOML: {exc}", hint="correct the file"
        ) from exc
    folder = path.expanduser().parent
    tables = content.pop("target", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigurationError(
            f"--recipe {path}: target is not a list of tables",
            hint="write each target as a table, [[target]]",
        )
    specs = {name: spec for name, spec in option_specs(ExportRequest).items() if name not in _NOT_IN_A_RECIPE}
    reject_unknown(content, [*specs, "target"], f"--recipe {path}")
    values = {name: _resolve(folder, specs[name], value) for name, value in content.items()}
    model, output = values.pop("model", []), values.pop("output", None)
    models = [model] if isinstance(model, str) else model
    if not isinstance(models, list) or not all(isinstance(item, str) for item in models):
        raise ConfigurationError(
            f"--recipe {path}: model is {model!r}, not a name in quotes",
            hint='write it as model = "NAME", or for timmx sweep as model = ["NAME", "NAME"]',
        )
    if output is not None and not isinstance(output, Path):
        raise ConfigurationError(
            f"--recipe {path}: output is {output!r}, not a folder in quotes",
            hint='write it as output = "FOLDER"',
        )
    return Recipe(
        tuple(_resolve_model(folder, item) for item in models),
        output,
        values,
        tuple(_target(path, folder, table) for table in tables),
    )


def recipe_schema(backends: Iterable[ExportBackend] = ()) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe.

    Args:
        backends: backends whose options are included; without any, a target may have any options.
    """
    shared = option_specs(ExportRequest)
    properties = {name: _property(spec) for name, spec in shared.items() if name not in _NOT_IN_A_RECIPE}
    properties["labels"] |= {"type": ["string", "array"], "items": {"type": "string"}}
    properties["labels"]["description"] += " Or a list of names."
    properties["output"]["description"] = "The folder to write into, relative to the recipe."
    properties["model"] |= {"type": ["string", "array"], "items": {"type": "string"}}
    properties["model"]["description"] += " Or, for timmx sweep, a list of them."
    own = {name: _property(replace(shared[name], default=None)) for name in OF_A_TARGET}
    own["output"]["description"] = "The file's name in the output folder. Default: the model's name."
    targets = [_target_schema(backend, own) for backend in backends]
    any_target = {
        "type": "object",
        "required": ["format"],
        "properties": {
            "format": {"type": "string", "description": "The backend that writes the file."},
            **own,
        },
        "additionalProperties": True,
    }
    properties["target"] = {
        "type": "array",
        "description": "One table per file to write.",
        "minItems": 1,
        "items": {"oneOf": targets} if targets else any_target,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of timmx export",
        "description": "A recipe for `timmx export --recipe FILE.toml`, or `timmx sweep`. Paths are relative to its "
        "folder.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _target(path: Path, folder: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """A target's table with resolved paths; its options are not checked here."""
    name = table.get("format")
    specs = option_specs(load(name).options) if isinstance(name, str) and name else {}
    return {
        key: _resolve(folder, specs[key], value) if key in specs else value for key, value in table.items()
    }


def _resolve_model(folder: Path, model: str) -> str:
    """A model; the folder of a `local-dir:` is resolved against the recipe's folder."""
    if not model.startswith(_LOCAL):
        return model
    return _LOCAL + str(folder / Path(model.removeprefix(_LOCAL)).expanduser())


def _resolve(folder: Path, spec: OptionSpec, value: Any) -> Any:
    """A path resolved against the recipe's folder; other values are unchanged."""
    return folder / Path(value).expanduser() if spec.kind is Path and isinstance(value, str) else value


def _target_schema(backend: ExportBackend, own: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: _property(spec) for name, spec in option_specs(backend.options).items()}
    return {
        "type": "object",
        "description": backend.help,
        "required": ["format"],
        "properties": {"format": {"const": backend.name}, **own, **options},
        "additionalProperties": False,
    }


def _property(spec: OptionSpec) -> dict[str, Any]:
    """The schema of one option, with its help and its default."""
    schema = _value(spec.kind)
    for key, limit in (("minimum", spec.minimum), ("maximum", spec.maximum)):
        if limit is not None:
            schema[key] = limit
    if spec.help:
        schema["description"] = spec.help
    default = spec.default
    if default is not None and default is not REQUIRED and not isinstance(default, (Path, tuple)):
        schema["default"] = str(default) if isinstance(default, StrEnum) else default
    return schema


def _value(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"type": "string", "enum": [member.value for member in kind]}
    if kind in (Floats, Ints):
        return {"type": "array", "items": {"type": "number" if kind is Floats else "integer"}, "minItems": 1}
    if get_origin(kind) is tuple:
        size = len(get_args(kind))
        items = _value(get_args(kind)[0])
        return {"type": "array", "items": items, "minItems": size, "maxItems": size}
    if get_origin(kind) is list:  # KEY=VALUE on the command line, a table in TOML
        return {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "object"}]}
    names = {bool: "boolean", int: "integer", float: "number"}
    return {"type": names.get(kind, "string")}
