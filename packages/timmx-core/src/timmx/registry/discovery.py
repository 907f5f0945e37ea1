"""Finds backends by the entry points of installed distributions; loads one only when it is named.

What stands in metadata (a duplicate or impossible name, an unmet requirement) is told without importing
anything. What only an import can tell is found by `load`, or in a child process by `probe.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
import threading
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import importlib_metadata

from timmx.contract import SUPPORTED_CONTRACTS, ExportBackend
from timmx.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUP = "timmx.backends"
CHECKED_GROUP = "timmx.checked"
"""Requirements without which a backend works in part: named by its wheel, told by its own `check_environment`."""

_REDIRECTING = threading.Lock()
"""`redirect_stdout` is for the whole process: two threads at once would leave it redirected."""

RESERVED = frozenset(
    "list info doctor backends export inspect verify predict eval bench compare sweep demo card new-backend help "
    "all".split()
)
"""Commands of the core, present and to come; no backend may take one of these names."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class State(StrEnum):
    """Whether a backend can be used, and if not, what kind of trouble it is."""

    AVAILABLE = "available"
    NEEDS_SETUP = "needs setup"
    INCOMPATIBLE = "incompatible"
    BROKEN = "broken"
    DUPLICATE = "duplicate"
    INVALID = "invalid"
    DISABLED = "disabled"
    UNMET = "unmet requirement"


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """One installed backend, as far as it is known without importing it.

    Attributes:
        name: its command.
        distribution: the wheel that it came with.
        version: that wheel's version.
        summary: that wheel's `Summary`.
        target: the entry point's value, `module:attribute`.
        state: AVAILABLE means only that metadata shows no trouble, until it has been loaded.
        reason: the trouble in words; empty where there is none.
        fix: what to do about it.
        contract: the contract version it was written for, where it has been loaded.
        limits: what it cannot do here, and what it has not been tried on; empty until it has been loaded.
    """

    name: str
    distribution: str
    version: str
    summary: str
    target: str
    state: State = State.AVAILABLE
    reason: str = ""
    fix: str = ""
    contract: int | None = None
    limits: str = ""

    def error(self, state: State, reason: str, fix: str) -> BackendError:
        """The error that says why this backend cannot be used."""
        who = f"backend {self.name} ({self.distribution} {self.version})"
        message = f"{who} is {state}: {reason.rstrip('.')}"
        return BackendError(message, hint=fix, state=state, reason=reason)

    @property
    def trouble(self) -> str:
        """The reason and the fix in one line."""
        return "; ".join(text.rstrip(".") for text in (self.reason, self.fix) if text)

    @property
    def selector(self) -> str:
        """What names this one and no other, even where two distributions claim the name."""
        return f"{self.distribution}:{self.name}"


@cache
def entries() -> tuple[BackendEntry, ...]:
    """Every installed backend, by name. Read once."""
    found: list[BackendEntry] = []
    seen = set()
    for distribution in importlib_metadata.distributions():
        points = distribution.entry_points.select(group=GROUP)
        if not points:
            continue
        headers = _headers(distribution)
        key = _canonical(headers["Name"][0])
        if key in seen:  # a second copy further down sys.path is shadowed by the first
            continue
        seen.add(key)
        version, summary = headers["Version"][0], headers["Summary"][0]
        spared = {_canonical(point.name) for point in distribution.entry_points.select(group=CHECKED_GROUP)}
        unmet = _unmet_requirements(headers["Requires-Dist"], spared)
        found += [
            _judge(
                BackendEntry(
                    name=point.name, distribution=key, version=version, summary=summary, target=point.value
                ),
                unmet,
            )
            for point in points
        ]
    counts: dict[str, list[str]] = {}
    for entry in found:
        counts.setdefault(entry.name, []).append(entry.distribution)
    found = [
        _mark_duplicate(entry, counts[entry.name]) if len(counts[entry.name]) > 1 else entry
        for entry in found
    ]
    return tuple(sorted(found, key=lambda entry: (entry.name, entry.distribution)))


def find(name: str) -> BackendEntry:
    """The backend called `name`, or `distribution:name`.

    Raises:
        BackendError: it is not installed (with the command that installs it, where it is one of ours), or
            its metadata shows that it cannot be used.
    """
    distribution, _, command = name.rpartition(":")
    wanted = _canonical(distribution)
    matches = [entry for entry in entries() if entry.name == command and wanted in ("", entry.distribution)]
    if not matches:
        raise _not_installed(name)
    entry = matches[0]
    if entry.state is State.DUPLICATE and distribution:
        entry = replace(entry, state=State.AVAILABLE, reason="", fix="")
    if entry.state is not State.AVAILABLE:
        raise entry.error(entry.state, entry.reason, entry.fix)
    return entry


def load(name: str) -> ExportBackend:
    """Import one backend; whatever goes wrong inside it comes out as a BackendError.

    Raises:
        BackendError: not installed, not usable, broken, or written for another contract; or, in strict mode,
            any other backend's trouble that metadata shows.
    """
    if is_strict():
        require_sound(entries())
    return load_entry(find(name))


def is_strict() -> bool:
    """Whether `TIMMX_STRICT=1` asks for an error at any backend's trouble, as a CI may want."""
    return os.environ.get("TIMMX_STRICT") == "1"


def require_sound(found: Iterable[BackendEntry]) -> None:
    """Refuse to go on where an installed backend is in trouble.

    Raises:
        BackendError: names all that are neither available nor disabled.
    """
    troubled = [entry for entry in found if entry.state not in (State.AVAILABLE, State.DISABLED)]
    if troubled:
        reasons = "; ".join(
            f"{entry.selector} is {entry.state}: {entry.reason.rstrip('.')}" for entry in troubled
        )
        fixes = "; ".join(entry.fix for entry in troubled)
        raise BackendError(f"TIMMX_STRICT is set, and {reasons}", hint=fixes, state=troubled[0].state)


def load_entry(entry: BackendEntry) -> ExportBackend:
    """Import the backend of an entry, whatever its state.

    Raises:
        BackendError: it cannot be imported, is no backend, or speaks another contract.
    """
    module, _, attribute = entry.target.partition(":")
    reinstall = f"reinstall it (uv pip install --reinstall {entry.distribution}), or report it to its authors"
    try:
        with _REDIRECTING, contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            found: object = importlib.import_module(module)
            for part in filter(None, attribute.split(".")):
                found = getattr(found, part)
            if not (isinstance(found, type) and issubclass(found, ExportBackend)):
                raise entry.error(State.BROKEN, f"{entry.target} is not an ExportBackend.", reinstall)
            check_contract(found, entry)
            backend = found()
    except (BackendError, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as exc:
        if exc.name and (module == exc.name or module.startswith(exc.name + ".")):
            raise entry.error(State.BROKEN, f"its own module {exc.name} is missing.", reinstall) from exc
        reason = f"it needs the module {exc.name}, which is not installed."
        raise entry.error(State.BROKEN, reason, f"install that module, or {reinstall}") from exc
    except BaseException as exc:  # a plugin may raise anything, SystemExit included
        said = f"{type(exc).__name__}: {exc}".rstrip(": ")
        raise entry.error(State.BROKEN, f"importing it raised {said}.", reinstall) from exc
    if backend.name != entry.name:
        reason = f"its entry point is called {entry.name!r}, the backend {backend.name!r}."
        raise entry.error(State.INVALID, reason, "ask its authors to make the two equal")
    return backend


def check_contract(cls: type, entry: BackendEntry) -> None:
    """Refuse a backend that was written for a contract that this core does not speak.

    Raises:
        BackendError: too old (upgrade the plugin), too new (upgrade timmx-core), or not stated.
    """
    contract = getattr(cls, "contract", None)
    if not isinstance(contract, int):
        reason = "it does not say which contract it was written for."
        raise entry.error(State.BROKEN, reason, "ask its authors to state `contract`")
    if contract < SUPPORTED_CONTRACTS.start:
        reason = (
            f"it was written for contract {contract}, this core needs at least {SUPPORTED_CONTRACTS.start}."
        )
        fix = f"uv pip install --upgrade {entry.distribution}"
        raise entry.error(State.INCOMPATIBLE, reason, fix)
    if contract >= SUPPORTED_CONTRACTS.stop:
        newest = SUPPORTED_CONTRACTS.stop - 1
        reason = f"it was written for contract {contract}, this core supports at most {newest}."
        raise entry.error(State.INCOMPATIBLE, reason, "uv pip install --upgrade timmx-core")


def distribution_of(backend: ExportBackend) -> str | None:
    """The wheel that a loaded backend came with, None where it was not found through an entry point."""
    module = type(backend).__module__
    for entry in entries():
        if entry.name == backend.name and entry.target.partition(":")[0] == module:
            return entry.distribution
    return None


def name_trouble(name: str) -> str:
    """Why no backend may have this name; empty where one may."""
    if not _NAME.fullmatch(name):
        return f"{name!r} is not made of lower-case words joined by hyphens."
    if name in RESERVED:
        return f"{name!r} is a command of timmx itself."
    return ""


def usable() -> Iterable[BackendEntry]:
    """The backends whose metadata shows no trouble."""
    return (entry for entry in entries() if entry.state is State.AVAILABLE)


@cache
def known_backends() -> dict[str, dict[str, Any]]:
    """Our own backends, installed or not: name -> distribution and suffixes. For install hints alone."""
    return json.loads(resources.files("timmx.registry").joinpath("known_backends.json").read_text("utf-8"))


def _not_installed(name: str) -> BackendError:
    known = known_backends().get(name)
    installed = ", ".join(entry.name for entry in entries()) or "none"
    if known:
        return BackendError(
            f"the backend {name!r} is not installed (installed: {installed})",
            hint=f"uv pip install {known['distribution']}",
        )
    return BackendError(
        f"there is no backend {name!r} (installed: {installed})", hint="install it, or name an installed one"
    )


def _judge(entry: BackendEntry, unmet: list[tuple[str, str]]) -> BackendEntry:
    """What metadata alone shows of one entry; `unmet` is what its wheel requires beside what was found."""
    disabled = {name.strip() for name in os.environ.get("TIMMX_DISABLE_BACKENDS", "").split(",")}
    if reason := name_trouble(entry.name):
        return replace(entry, state=State.INVALID, reason=reason, fix="ask its authors to rename it")
    if disabled & {entry.name, entry.selector}:
        reason = "TIMMX_DISABLE_BACKENDS names it."
        return replace(entry, state=State.DISABLED, reason=reason, fix="take it out of that variable")
    if unmet:
        reason = "it requires " + ", ".join(f"{wanted} ({found})" for wanted, found in unmet) + "."
        fix = "uv pip install " + " ".join(f"'{wanted}'" for wanted, _ in unmet)
        return replace(entry, state=State.UNMET, reason=reason, fix=fix)
    return entry


def _mark_duplicate(entry: BackendEntry, distributions: list[str]) -> BackendEntry:
    if entry.state not in (State.AVAILABLE, State.UNMET):
        return entry
    reason = f"{' and '.join(sorted(distributions))} both provide {entry.name!r}."
    fix = f"name one of them (timmx {entry.selector} ...), or uninstall the other"
    return replace(entry, state=State.DUPLICATE, reason=reason, fix=fix)


def _canonical(name: str) -> str:
    """A distribution's name as the package index compares it (`packaging.utils` would import its tags too)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _headers(distribution: Any) -> dict[str, list[str]]:
    """The four fields of a distribution's metadata that the registry reads.

    By lines, since each is one line: `distribution.metadata` has the email parser go through the whole README,
    which took a tenth of the time of `timmx --help`.
    """
    fields: dict[str, list[str]] = {"Name": [], "Version": [], "Summary": [], "Requires-Dist": []}
    for line in (distribution.read_text("METADATA") or "").splitlines():
        if not line:
            break
        name, colon, value = line.partition(":")
        if colon and name in fields:
            fields[name].append(value.strip())
    for name, default in (("Name", "unknown"), ("Version", "0"), ("Summary", "")):
        fields[name] = fields[name] or [default]
    return fields


@cache
def _installed_version(name: str) -> str | None:
    try:
        return _headers(importlib_metadata.distribution(name))["Version"][0]
    except importlib_metadata.PackageNotFoundError:
        return None


def _unmet_requirements(requirements: Iterable[str], spared: set[str]) -> list[tuple[str, str]]:
    """Requirements that this environment does not meet, each with what was found instead; none of `spared`."""
    from packaging.requirements import InvalidRequirement, Requirement

    unmet = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if _canonical(requirement.name) in spared:
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        found = _installed_version(requirement.name)
        if found is None:
            unmet.append((wanted, "not installed"))
        elif not requirement.specifier.contains(found, prereleases=True):
            unmet.append((wanted, f"found {found}"))
    return unmet
