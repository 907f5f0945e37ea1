"""The targets of `timmx export`: parses `--to` and recipe tables into checked requests."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from timmx.contract import ExportRequest
from timmx.errors import ConfigurationError, TimmxError
from timmx.exporting.outputs import KNOWN_SUFFIXES, output_path
from timmx.exporting.validation import validate
from timmx.registry import (
    OptionSpec,
    build,
    entries,
    known_backends,
    load,
    option_specs,
    reject_unknown,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from timmx.contract import ExportBackend

OF_A_TARGET = ("batch_size", "dynamic_batch", "min_snr", "min_agreement", "output")
"""Shared options that may differ between targets; the others belong to the model, which all targets share."""

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class TargetOptions:
    """A target before its values are checked.

    Attributes:
        backend: the backend that writes it.
        values: values of its options by name.
        text: the target as the user wrote it, for messages.
    """

    backend: ExportBackend
    values: Mapping[str, Any]
    text: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """One export of several.

    Attributes:
        backend: the backend that writes it.
        request: the shared options.
        options: the backend's own options.
        path: the file to write.
        own_options: options that were set for this target, by name.
    """

    backend: ExportBackend
    request: ExportRequest
    options: Any
    path: Path
    own_options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Its file's name, for progress and messages."""
        return self.path.name

    @property
    def extra_outputs(self) -> tuple[Path, ...]:
        """Further files and folders that its options name."""
        return tuple(self.backend.extra_outputs(self.options, self.path))


def parse_target(text: str) -> TargetOptions:
    """Parse `NAME[:KEY=VALUE[,KEY=VALUE...]]`.

    A name may be `distribution:name`. In a key, `-` and `_` are equivalent. `KEY` without a value turns an option on;
    `no-KEY` turns it off, if the format's own command has that flag. A part that is neither `KEY=VALUE` nor an
    option's name belongs to the value before it: `batch_sizes=1,2,4`.

    Raises:
        BackendError: the backend is not installed.
        ConfigurationError: the backend has no such option, or the value does not fit.
    """
    name, rest = _split(text)
    backend = load(name)
    specs = _specs(backend)
    pairs: list[tuple[str, str | None]] = []
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if key.startswith("no_") and key not in specs and key[3:] in specs and specs[key[3:]].kind is bool:
            if equals or not specs[key[3:]].off_flag:
                raise ConfigurationError(
                    f"--to {text}: {part} is not an option", hint=f"switch it off with {key[3:]}=no"
                )
            key, equals, value = key[3:], "=", "no"
        if not equals and key not in specs and pairs:
            last_key, last_value = pairs[-1]
            if last_value is not None:
                pairs[-1] = (last_key, f"{last_value},{part}")
                continue
        pairs.append((key, value if equals else None))
    _reject_unknown(backend, text, [key for key, _ in pairs])
    values: dict[str, Any] = {}
    for key, value_text in pairs:
        if key in values:
            raise ConfigurationError(f"--to {text} gives {key} twice", hint="give it once")
        values[key] = _from_text(text, specs[key], value_text)
    return TargetOptions(backend, values, text)


def target_of(entry: Mapping[str, Any]) -> TargetOptions:
    """The target of a table with `format` and options, from a recipe or a Python caller.

    Raises:
        BackendError: the backend is not installed.
        ConfigurationError: `format` is missing, or the backend has no such option.
    """
    values = dict(entry)
    name = values.pop("format", None)
    if not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"a target does not name its format; it has {', '.join(entry) or 'nothing'}",
            hint='add format = "FORMAT"; run timmx backends to list the formats',
        )
    backend = load(name)
    _reject_unknown(backend, name, values)
    return TargetOptions(backend, values, name)


def plan(items: Sequence[TargetOptions], shared: ExportRequest, folder: Path) -> tuple[Target, ...]:
    """The exports to run, each checked as by its backend's own command; nothing heavy is imported.

    Args:
        items: the targets.
        shared: the options of all targets.
        folder: the output folder.

    Raises:
        TimmxError: at least one target is invalid; the message lists all of them.
    """
    if not items:
        raise ConfigurationError(
            "no target is given",
            hint="give --to FORMAT one or more times; run timmx backends to list the formats",
        )
    targets: list[Target] = []
    errors: list[tuple[str, TimmxError]] = []
    for item in items:
        try:
            targets.append(_target(item, shared, folder))
        except TimmxError as exc:
            errors.append((item.text, exc))
    if not errors:
        targets = _with_unique_names(targets, folder)
    for target in targets:
        try:
            validate(target.backend, target.request, target.options)
        except TimmxError as exc:
            errors.append((target.label, exc))
    _raise(errors, len(items))
    check_extra_outputs(targets, {})
    if shared.output is None and not shared.force:
        for target in targets:
            if target.path.exists():
                raise ConfigurationError(
                    f"{target.path} exists",
                    hint="use --force to overwrite it, or name a folder with --output",
                )
    return tuple(targets)


def check_extra_outputs(targets: Iterable[Target], writers: dict[str, Path]) -> None:
    """Check that no two exports would write the same further file.

    Args:
        targets: to check.
        writers: for each further file, the output of the export that writes it; `targets` are added.

    Raises:
        ConfigurationError: two would.
    """
    for target in targets:
        for extra in target.extra_outputs:
            first = writers.setdefault(os.path.realpath(extra.expanduser()), target.path)
            if first != target.path:
                raise ConfigurationError(
                    f"an option of {target.backend.name} names {extra}, which would be written with {first} and again "
                    f"with {target.path}",
                    hint="leave that option out, or give each export a file of its own",
                )


def plan_each(
    items: Sequence[TargetOptions], shared: ExportRequest, folder: Path
) -> list[Target | TimmxError]:
    """For each target its export, or the reason why it cannot be exported; see `plan`."""
    planned: list[Target | TimmxError] = []
    for item in items:
        try:
            planned.append(_target(item, shared, folder))
        except TimmxError as exc:
            planned.append(exc)
    renamed = iter(_with_unique_names([item for item in planned if isinstance(item, Target)], folder))
    planned = [next(renamed) if isinstance(item, Target) else item for item in planned]
    return [_validated(item) if isinstance(item, Target) else item for item in planned]


def _validated(target: Target) -> Target | TimmxError:
    try:
        validate(target.backend, target.request, target.options)
    except TimmxError as exc:
        return exc
    return target


def _target(item: TargetOptions, shared: ExportRequest, folder: Path) -> Target:
    backend = item.backend
    own = option_specs(backend.options)
    options: Any = build(backend.options, {key: value for key, value in item.values.items() if key in own})
    values = {key: value for key, value in item.values.items() if key not in own}
    name = values.pop("output", None)
    checked = build(ExportRequest, {"model": shared.model, **values})
    request = replace(shared, output=None, force=True, **{key: getattr(checked, key) for key in values})
    if backend.source_artifact(options) is not None:
        raise ConfigurationError(
            "an option names a file to use instead of MODEL, but here all targets share one model",
            hint=f"use timmx {backend.name} for it",
        )
    if name is not None:
        if not isinstance(name, (str, Path)) or not str(name) or Path(name).name != str(name):
            raise ConfigurationError(
                f"output={name} is not the name of a file in {folder}",
                hint="give a file name without a folder",
            )
        _check_suffix(backend, Path(name), options)
        request = replace(request, output=folder / name)
    path = output_path(backend, request, options)
    return Target(
        backend=backend, request=request, options=options, path=folder / path.name, own_options=item.values
    )


def _check_suffix(backend: ExportBackend, name: Path, options: Any) -> None:
    suffix = backend.output_suffix(options)
    if name.suffix == suffix:
        return
    stem = name.stem if name.suffix.lower() in KNOWN_SUFFIXES | {".json"} else name
    raise ConfigurationError(
        f"output={name} must end in {suffix}, which is what timmx {backend.name} writes with these options",
        hint=f"use output={stem}{suffix}",
    )


def _with_unique_names(targets: Sequence[Target], folder: Path) -> list[Target]:
    """Add the options that differ to the names of targets that would write the same file."""
    renamed: list[Target] = []
    for target in targets:
        group = [other for other in targets if _written(other).keys() & _written(target)]
        path = target.path
        if target.request.output is None and len(group) > 1:
            words = _differences(group)[group.index(target)]
            path = path.with_name("-".join([path.stem, *words]) + path.suffix)
        renamed.append(replace(target, path=path, request=replace(target.request, output=path)))
    seen: dict[str, Target] = {}
    for target in renamed:
        for key, name in _written(target).items():
            if seen.setdefault(key, target) is not target:
                raise ConfigurationError(
                    f"two targets would write {folder / name}",
                    hint="leave one of them out, or give one a name with output=NAME",
                )
    return renamed


def _written(target: Target) -> dict[str, str]:
    """The names of the artifact and of the files next to it, by lower case: file systems may ignore case."""
    names = (
        target.path.with_suffix(suffix).name for suffix in (target.path.suffix, *target.backend.companions)
    )
    return {name.lower(): name for name in names}


def _differences(group: Sequence[Target]) -> list[list[str]]:
    """For each target the fewest words that distinguish it from the others; defaults add no word."""
    words: list[list[str]] = [[] for _ in group]
    if len({item.backend.name for item in group}) > 1:
        words = [[item.backend.name] for item in group]
    names = dict.fromkeys(
        name
        for item in group
        for name in item.own_options
        if name not in ("output", "min_snr", "min_agreement")
    )
    for name in sorted(names, key=lambda name: _rank(group, name)):
        longer = [
            [*start, *([] if _is_default(item, name) else [_word(name, _value(item, name))])]
            for start, item in zip(words, group, strict=True)
        ]
        if len(set(map(tuple, longer))) > len(set(map(tuple, words))):
            words = longer
    return words


def _rank(group: Sequence[Target], name: str) -> int:
    """Sort key of options for names: choices are best, paths worst."""
    kinds = (StrEnum, bool, int, float, tuple)
    values = [_value(item, name) for item in group]
    return min(
        (rank for rank, kind in enumerate(kinds) if any(isinstance(value, kind) for value in values)),
        default=len(kinds),
    )


def _owner(target: Target, name: str) -> Any:
    return target.options if hasattr(target.options, name) else target.request


def _value(target: Target, name: str) -> Any:
    return getattr(_owner(target, name), name, None)


def _is_default(target: Target, name: str) -> bool:
    """Whether the option is at its default, or one that the target's backend does not have."""
    owner: type = type(_owner(target, name))
    spec = option_specs(owner).get(name)
    return spec is None or _value(target, name) == spec.default


def _word(name: str, value: Any) -> str:
    word = name.replace("_", "-")
    if isinstance(value, bool):
        return word if value else f"no-{word}"
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Path):
        return value.stem
    if isinstance(value, tuple):
        return word + "-".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return f"{word.removesuffix('-size')}{value}"


def _raise(errors: Sequence[tuple[str, TimmxError]], count: int) -> None:
    """Raise one error for the errors of several targets, each with the target's text."""
    if not errors:
        return
    messages = {str(exc) for _, exc in errors}
    if len(messages) == 1:
        text, first = errors[0]
        if len(errors) == count:  # the error is about the shared options
            raise first
        raise type(first)(
            f"{text}: {first.message.rstrip('.')}; nothing was exported", hint=first.hint
        ) from first
    lines = "".join(f"\n  {text}: {exc.message}" for text, exc in errors)
    raise ConfigurationError(
        f"{len(errors)} of {count} targets cannot be exported; nothing was exported:{lines}",
        hint="; ".join(f"{text}: {exc.hint}" for text, exc in errors if exc.hint),
    ) from errors[0][1]


def _split(text: str) -> tuple[str, str]:
    """Name and options; the name may be `distribution:name`."""
    first, _, rest = text.partition(":")
    if not first:
        raise ConfigurationError(
            f"--to {text!r} does not name a format", hint="run timmx backends to list the formats"
        )
    second, _, options = rest.partition(":")
    names = known_backends().keys() | {entry.name for entry in entries()}
    if first not in names and second and "=" not in second:
        return f"{first}:{second}", options
    return first, rest


def _specs(backend: ExportBackend) -> dict[str, OptionSpec]:
    shared = option_specs(ExportRequest)
    return {name: shared[name] for name in OF_A_TARGET} | dict(option_specs(backend.options))


def _reject_unknown(backend: ExportBackend, target: str, names: Sequence[str] | Mapping[str, Any]) -> None:
    own = option_specs(backend.options)
    for name in names:
        if name not in own and name not in OF_A_TARGET and name in option_specs(ExportRequest):
            raise ConfigurationError(
                f"{target}: {name} applies to all targets, since they share one model",
                hint=f"give {name} outside the targets, once for all of them",
            )
    reject_unknown(names, _specs(backend), f"timmx {backend.name}")


def _from_text(target: str, spec: OptionSpec, text: str | None) -> Any:
    """The Python value of an option's text; other kinds stay text, which `build` checks."""
    name, kind = spec.name, spec.kind
    if kind is bool:
        word = "true" if text is None else text.strip().lower()
        if word not in _YES + _NO:
            raise ConfigurationError(
                f"--to {target}: {name}={text} is not a boolean", hint=f"use {name}=yes or {name}=no"
            )
        return word in _YES
    if text is None or not text:
        raise ConfigurationError(f"--to {target}: {name} needs a value", hint=f"write {name}=VALUE")
    try:
        if kind is int or kind is float:
            return kind(text)
        if get_origin(kind) in (list, tuple):
            item = get_args(kind)[0]
            return [item(part) for part in text.split(",")]
    except ValueError:
        expected = "an integer" if kind is int else "a number" if kind is float else "a list of numbers"
        example = "8" if kind is int else "0.5" if kind is float else "1,2"
        raise ConfigurationError(
            f"--to {target}: {name}={text} is not {expected}", hint=f"give {expected}, as in {name}={example}"
        ) from None
    return text
