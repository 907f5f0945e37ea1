"""What `--to` names, as requests that are checked: which backend, which options, which file."""

from __future__ import annotations

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
    from collections.abc import Mapping, Sequence

    from timmx.contract import ExportBackend

OF_A_TARGET = ("batch_size", "dynamic_batch", "min_snr", "output")
"""The shared options that one target may have of its own; the others are of the one model that is loaded."""

_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Wanted:
    """One target as it was asked for, nothing checked but its words.

    Attributes:
        backend: that writes it.
        values: of its options, by name.
        said: as it was typed, for messages.
    """

    backend: ExportBackend
    values: Mapping[str, Any]
    said: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """One export of several.

    Attributes:
        label: names it in progress and messages: its file's name.
        given: the options that were set for it alone, by name.
    """

    backend: ExportBackend
    request: ExportRequest
    options: Any
    path: Path
    given: Mapping[str, Any]

    @property
    def label(self) -> str:
        return self.path.name


def parse_target(text: str) -> Wanted:
    """What `NAME[:KEY=VALUE[,KEY=VALUE...]]` says.

    A name may be `distribution:name`. In a key, `-` and `_` are alike. `KEY` alone switches something on;
    `no-KEY` off, where the format's own command has that flag. A part that is neither `KEY=VALUE` nor an option's
    name belongs to the value before it: `batch_sizes=1,2,4`.

    Raises:
        BackendError: no such backend.
        ConfigurationError: it has no such option, or the value does not fit.
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
            earlier, begun = pairs[-1]
            if begun is not None:
                pairs[-1] = (earlier, f"{begun},{part}")
                continue
        pairs.append((key, value if equals else None))
    _reject_unknown(backend, text, [key for key, _ in pairs])
    values: dict[str, Any] = {}
    for key, given in pairs:
        if key in values:
            raise ConfigurationError(f"--to {text} gives {key} twice", hint="give it once")
        values[key] = _from_text(text, specs[key], given)
    return Wanted(backend, values, text)


def target_of(entry: Mapping[str, Any]) -> Wanted:
    """What a table with `format` and options says, as a recipe or a Python caller has it.

    Raises:
        BackendError: no such backend.
        ConfigurationError: there is no format, or the backend has no such option.
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
    return Wanted(backend, values, name)


def plan(wanted: Sequence[Wanted], shared: ExportRequest, folder: Path) -> tuple[Target, ...]:
    """The exports to make, each checked as its backend's own command would check it; nothing heavy is imported.

    Args:
        shared: what goes for all; its `output` is not read.
        folder: where the files go.

    Raises:
        TimmxError: what the backend's own command would say, of every target that cannot be.
    """
    if not wanted:
        raise ConfigurationError(
            "no target is given",
            hint="give --to FORMAT one or more times; run timmx backends to list the formats",
        )
    targets: list[Target] = []
    troubles: list[tuple[str, TimmxError]] = []
    for item in wanted:
        try:
            targets.append(_target(item, shared, folder))
        except TimmxError as exc:
            troubles.append((item.said, exc))
    if not troubles:
        targets = _with_names_of_their_own(targets, folder)
    for target in targets:
        try:
            validate(target.backend, target.request, target.options)
        except TimmxError as exc:
            troubles.append((target.label, exc))
    _raise(troubles, len(wanted))
    if shared.output is None and not shared.force:
        for target in targets:
            if target.path.exists():
                raise ConfigurationError(
                    f"{target.path} exists",
                    hint="use --force to overwrite it, or name a folder with --output",
                )
    return tuple(targets)


def _target(item: Wanted, shared: ExportRequest, folder: Path) -> Target:
    backend = item.backend
    own = option_specs(backend.options)
    options: Any = build(backend.options, {key: value for key, value in item.values.items() if key in own})
    of_request = {key: value for key, value in item.values.items() if key not in own}
    name = of_request.pop("output", None)
    checked = build(ExportRequest, {"model": shared.model, **of_request})
    request = replace(shared, output=None, force=True, **{key: getattr(checked, key) for key in of_request})
    if backend.source_artifact(options) is not None:
        raise ConfigurationError(
            "an option takes a file in place of MODEL, but here all targets share one model",
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
        backend=backend, request=request, options=options, path=folder / path.name, given=item.values
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


def _with_names_of_their_own(targets: Sequence[Target], folder: Path) -> list[Target]:
    """Where several would write one file, what differs between them goes into the names."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.label.lower(), []).append(target)  # file systems may not tell A from a
    named: list[Target] = []
    for target in targets:
        group = groups[target.label.lower()]
        path = target.path
        if target.request.output is None and len(group) > 1:
            words = _what_differs(group)[group.index(target)]
            path = path.with_name("-".join([path.stem, *words]) + path.suffix)
        named.append(replace(target, path=path, request=replace(target.request, output=path)))
    seen: dict[str, Target] = {}
    for target in named:
        twin = seen.setdefault(target.label.lower(), target)
        if twin is not target:
            raise ConfigurationError(
                f"two targets would write {folder / target.label}",
                hint="leave one of them out, or give one a name with output=NAME",
            )
    return named


def _what_differs(group: Sequence[Target]) -> list[list[str]]:
    """For each target the fewest words that tell it from the others; what is at its default says nothing."""
    words: list[list[str]] = [[] for _ in group]
    if len({item.backend.name for item in group}) > 1:
        words = [[item.backend.name] for item in group]
    names = dict.fromkeys(name for item in group for name in item.given if name not in ("output", "min_snr"))
    for name in sorted(names, key=lambda name: _rank(group, name)):
        further = [
            [*said, *(_word(name, value) for value in [_value(item, name)] if value != _default(item, name))]
            for said, item in zip(words, group, strict=True)
        ]
        if len(set(map(tuple, further))) > len(set(map(tuple, words))):
            words = further
    return words


def _rank(group: Sequence[Target], name: str) -> int:
    """Choices make the best names, paths the worst."""
    kinds = (StrEnum, bool, int, float, tuple)
    found = [_value(item, name) for item in group]
    return min(
        (rank for rank, kind in enumerate(kinds) if any(isinstance(value, kind) for value in found)),
        default=len(kinds),
    )


def _owner(target: Target, name: str) -> Any:
    return target.options if hasattr(target.options, name) else target.request


def _value(target: Target, name: str) -> Any:
    return getattr(_owner(target, name), name, None)


def _default(target: Target, name: str) -> Any:
    cls: type = type(_owner(target, name))
    return option_specs(cls)[name].default


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


def _raise(troubles: Sequence[tuple[str, TimmxError]], count: int) -> None:
    if not troubles:
        return
    messages = {str(exc) for _, exc in troubles}
    if len(messages) == 1:
        said, first = troubles[0]
        if len(troubles) == count:  # about what they share
            raise first
        raise type(first)(
            f"{said}: {first.message.rstrip('.')}; nothing was exported", hint=first.hint
        ) from first
    lines = "".join(f"\n  {said}: {exc.message}" for said, exc in troubles)
    raise ConfigurationError(
        f"{len(troubles)} of {count} targets cannot be exported; nothing was exported:{lines}",
        hint="; ".join(f"{said}: {exc.hint}" for said, exc in troubles if exc.hint),
    ) from troubles[0][1]


def _split(text: str) -> tuple[str, str]:
    """Name and options; the name may be `distribution:name`."""
    first, _, rest = text.partition(":")
    if not first:
        raise ConfigurationError(
            f"--to {text!r} does not name a format", hint="run timmx backends to list the formats"
        )
    second, _, further = rest.partition(":")
    plain = known_backends().keys() | {entry.name for entry in entries()}
    if first not in plain and second and "=" not in second:
        return f"{first}:{second}", further
    return first, rest


def _specs(backend: ExportBackend) -> dict[str, OptionSpec]:
    shared = option_specs(ExportRequest)
    return {name: shared[name] for name in OF_A_TARGET} | dict(option_specs(backend.options))


def _reject_unknown(backend: ExportBackend, said: str, names: Sequence[str] | Mapping[str, Any]) -> None:
    own = option_specs(backend.options)
    for name in names:
        if name not in own and name not in OF_A_TARGET and name in option_specs(ExportRequest):
            raise ConfigurationError(
                f"{said}: {name} applies to all targets, since they share one model",
                hint=f"give {name} once for all targets, not in one of them",
            )
    reject_unknown(names, _specs(backend), f"timmx {backend.name}")


def _from_text(said: str, spec: OptionSpec, text: str | None) -> Any:
    """A Python value for what was typed; what is not clear stays text, which `build` refuses or takes."""
    name, kind = spec.name, spec.kind
    if kind is bool:
        word = "true" if text is None else text.strip().lower()
        if word not in _YES + _NO:
            raise ConfigurationError(
                f"--to {said}: {name}={text} is neither true nor false", hint=f"use {name}=yes or {name}=no"
            )
        return word in _YES
    if text is None or not text:
        raise ConfigurationError(f"--to {said}: {name} needs a value", hint=f"write {name}=VALUE")
    try:
        if kind is int or kind is float:
            return kind(text)
        if get_origin(kind) in (list, tuple):
            item = get_args(kind)[0]
            return [item(part) for part in text.split(",")]
    except ValueError:
        wanted = "an integer" if kind is int else "a number" if kind is float else "a list of numbers"
        example = "8" if kind is int else "0.5" if kind is float else "1,2"
        raise ConfigurationError(
            f"--to {said}: {name}={text} is not {wanted}", hint=f"give {wanted}, as in {name}={example}"
        ) from None
    return text
