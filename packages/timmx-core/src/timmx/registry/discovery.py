"""Finds backends by the entry points of installed distributions; loads one only when it is used.

Problems that package metadata shows (a duplicate or invalid name, an unmet requirement) are reported without
importing anything. Problems that only an import shows are found by `load`, or in a child process by `probe.py`.
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

from timmx.base import shown
from timmx.contract import SUPPORTED_CONTRACTS, ExportBackend
from timmx.errors import BackendError, Terminated, one_line
from timmx.registry.boundary import attribute_trouble, guard, watching_exits
from timmx.registry.distributions import UNREADABLE, canonical, entry_points, headers

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUP = "timmx.backends"
CHECKED_GROUP = "timmx.checked"
"""Entry points that name requirements a backend can partly work without; its `check_environment` reports them."""

_REDIRECTING = threading.Lock()
"""`redirect_stdout` applies to the whole process: two threads at once would leave stdout redirected."""

RESERVED = frozenset(
    "list info doctor backends export inspect verify predict eval bench compare sweep demo card new-backend help "
    "all".split()
)
"""Present and reserved commands of the core; no backend may use one of these names."""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


class State(StrEnum):
    """Whether a backend can be used, and if not, the kind of problem."""

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
    """One installed backend, described without importing it.

    Attributes:
        name: its command; empty for a distribution that cannot be read.
        distribution: the distribution that contains it.
        version: the distribution's version.
        summary: the distribution's `Summary`.
        target: the entry point's value, `module:attribute`.
        state: until the backend is loaded, AVAILABLE means only that metadata shows no problem.
        reason: the problem; empty if there is none.
        fix: how to fix it.
        contract: the contract version that it was written for; None until it is loaded.
        limits: what does not work here or was not tested; empty until it is loaded.
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
        """An error with the reason why this backend cannot be used."""
        who = f"backend {self.name} ({self.distribution} {self.version})"
        message = f"{who} is {state}: {reason.rstrip('.')}"
        return BackendError(message, hint=fix, state=state, reason=reason)

    @property
    def trouble(self) -> str:
        """The reason and the fix in one line."""
        return "; ".join(text.rstrip(".") for text in (self.reason, self.fix) if text)

    @property
    def selector(self) -> str:
        """Its unique name, `distribution:name`; the distribution if it cannot be read."""
        return f"{self.distribution}:{self.name}" if self.name else self.distribution


@cache
def entries() -> tuple[BackendEntry, ...]:
    """Every installed backend, sorted by name; cached. Distributions that cannot be read are left out."""
    backends: list[BackendEntry] = []
    seen = set()
    for distribution in importlib_metadata.distributions():
        try:
            points = entry_points(distribution)
            if not points.select(group=GROUP):
                continue
            fields = headers(distribution)
        except UNREADABLE:
            continue
        optional = {canonical(point.name) for point in points.select(group=CHECKED_GROUP)}
        points = points.select(group=GROUP)
        key = canonical(fields["Name"][0])
        if key in seen:  # a second copy further down sys.path is shadowed by the first
            continue
        seen.add(key)
        version, summary = fields["Version"][0], fields["Summary"][0]
        unmet = _unmet_requirements(fields["Requires-Dist"], optional)
        backends += [
            _judge(
                BackendEntry(
                    name=point.name, distribution=key, version=version, summary=summary, target=point.value
                ),
                unmet,
            )
            for point in points
        ]
    providers: dict[str, list[str]] = {}
    for entry in backends:
        providers.setdefault(entry.name, []).append(entry.distribution)
    backends = [
        _mark_duplicate(entry, providers[entry.name]) if len(providers[entry.name]) > 1 else entry
        for entry in backends
    ]
    return tuple(sorted(backends, key=lambda entry: (entry.name, entry.distribution)))


def unreadable() -> tuple[BackendEntry, ...]:
    """A broken entry without a name for each distribution that cannot be read: it may have a backend or not.

    Every distribution is read, which `entries` does not do: it is for `timmx backends` and `timmx doctor`.
    """
    readers = {"METADATA": headers, "entry_points.txt": entry_points}
    rows = []
    for distribution in importlib_metadata.distributions():
        for file, read in readers.items():
            try:
                read(distribution)
            except UNREADABLE as exc:
                rows.append(_unreadable(distribution, file, exc))
    return tuple(rows)


def find(name: str) -> BackendEntry:
    """The entry of the backend `name`, or `distribution:name`.

    Raises:
        BackendError: it is not installed (the hint is the command that installs one of ours), or its metadata
            shows that it cannot be used.
    """
    distribution, _, command = name.rpartition(":")
    owner = canonical(distribution)
    matches = [entry for entry in entries() if entry.name == command and owner in ("", entry.distribution)]
    if not matches:
        raise _not_installed(name)
    entry = matches[0]
    if entry.state is State.DUPLICATE and distribution:
        entry = replace(entry, state=State.AVAILABLE, reason="", fix="")
    if entry.state is not State.AVAILABLE:
        raise entry.error(entry.state, entry.reason, entry.fix)
    return entry


def load(name: str) -> ExportBackend:
    """Import one backend; any failure inside it becomes a BackendError.

    Raises:
        BackendError: it is not installed, not usable, broken, or written for another contract; in strict mode also
            if the metadata of any other backend shows a problem.
    """
    if is_strict():
        require_sound((*entries(), *unreadable()))
    return load_entry(find(name))


def is_strict() -> bool:
    """Whether `TIMMX_STRICT=1` is set: a problem of any backend is then an error, for use in CI."""
    return os.environ.get("TIMMX_STRICT") == "1"


def require_sound(backends: Iterable[BackendEntry]) -> None:
    """Raise an error if an installed backend has a problem.

    Raises:
        BackendError: names all backends that are neither available nor disabled.
    """
    unusable = [entry for entry in backends if entry.state not in (State.AVAILABLE, State.DISABLED)]
    if unusable:
        reasons = "; ".join(
            f"{entry.selector} is {entry.state}: {entry.reason.rstrip('.')}" for entry in unusable
        )
        fixes = "; ".join(entry.fix for entry in unusable)
        raise BackendError(f"TIMMX_STRICT is set, and {reasons}", hint=fixes, state=unusable[0].state)


def load_entry(entry: BackendEntry) -> ExportBackend:
    """Import the backend of an entry, whatever its state. Its methods are watched: see `boundary.py`.

    Raises:
        BackendError: it cannot be imported, is not a backend, or was written for another contract.
    """
    module, _, attribute = entry.target.partition(":")
    reinstall = f"reinstall it (uv pip install --reinstall {entry.distribution}), or report it to its authors"
    try:
        with _REDIRECTING, watching_exits(), contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            target: object = importlib.import_module(module)
            for part in filter(None, attribute.split(".")):
                target = getattr(target, part)
            if not (isinstance(target, type) and issubclass(target, ExportBackend)):
                raise entry.error(State.BROKEN, f"{entry.target} is not an ExportBackend.", reinstall)
            check_contract(target, entry)
            backend = target()
    except (BackendError, KeyboardInterrupt, Terminated):
        raise
    except ModuleNotFoundError as exc:
        if exc.name and (module == exc.name or module.startswith(exc.name + ".")):
            raise entry.error(State.BROKEN, f"its own module {exc.name} is missing.", reinstall) from exc
        reason = f"it needs the module {exc.name}, which is not installed."
        raise entry.error(State.BROKEN, reason, f"install that module, or {reinstall}") from exc
    except BaseException as exc:  # a plugin may raise anything, SystemExit included
        text = f"{type(exc).__name__}: {exc}".rstrip(": ")
        raise entry.error(State.BROKEN, f"importing it raised {text}.", reinstall) from exc
    if backend.name != entry.name:
        reason = f"its entry point is called {entry.name!r}, the backend {backend.name!r}."
        raise entry.error(State.INVALID, reason, "ask its authors to make the two equal")
    if trouble := attribute_trouble(backend):
        raise entry.error(State.BROKEN, trouble, reinstall)
    selector = f"{entry.distribution}:{entry.name}"
    guard(backend, f"{entry.name} ({entry.distribution} {entry.version})", (load, (selector,)))
    return backend


def check_contract(cls: type, entry: BackendEntry) -> None:
    """Raise an error if a backend was written for a contract that this core does not support.

    Raises:
        BackendError: the contract is too old (upgrade the plugin), too new (upgrade timmx-core), or missing.
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
    """The distribution of a loaded backend; None if it was not loaded from an entry point."""
    module = type(backend).__module__
    for entry in entries():
        if entry.name == backend.name and entry.target.partition(":")[0] == module:
            return entry.distribution
    return None


def name_trouble(name: str) -> str:
    """The reason why a backend may not have this name; empty if it may."""
    if not _NAME.fullmatch(name):
        return f"{name!r} does not consist of lower-case words joined by hyphens."
    if name in RESERVED:
        return f"{name!r} is a command of timmx itself."
    return ""


def usable() -> Iterable[BackendEntry]:
    """The backends whose metadata shows no problem."""
    return (entry for entry in entries() if entry.state is State.AVAILABLE)


@cache
def known_backends() -> dict[str, dict[str, Any]]:
    """Our own backends, installed or not: name to distribution and suffixes, for install hints."""
    return json.loads(resources.files("timmx.registry").joinpath("known_backends.json").read_text("utf-8"))


def _not_installed(name: str) -> BackendError:
    ours = known_backends().get(name)
    installed = ", ".join(entry.name for entry in entries()) or "none"
    hint = f"uv pip install {ours['distribution']}" if ours else "install it, or name an installed one"
    return BackendError(f"the backend {name!r} is not installed (installed: {installed})", hint=hint)


def _judge(entry: BackendEntry, unmet: list[tuple[str, str]]) -> BackendEntry:
    """The entry with the state that metadata shows; `unmet` is from `_unmet_requirements`."""
    disabled = {name.strip() for name in os.environ.get("TIMMX_DISABLE_BACKENDS", "").split(",")}
    if reason := name_trouble(entry.name):
        return replace(entry, state=State.INVALID, reason=reason, fix="ask its authors to rename it")
    if disabled & {entry.name, entry.selector}:
        reason = "TIMMX_DISABLE_BACKENDS names it."
        return replace(entry, state=State.DISABLED, reason=reason, fix="take it out of that variable")
    if unmet:
        reason = (
            "it requires " + ", ".join(f"{requirement} ({status})" for requirement, status in unmet) + "."
        )
        fix = "uv pip install " + " ".join(f"'{requirement}'" for requirement, _ in unmet)
        return replace(entry, state=State.UNMET, reason=reason, fix=fix)
    return entry


def _mark_duplicate(entry: BackendEntry, distributions: list[str]) -> BackendEntry:
    if entry.state not in (State.AVAILABLE, State.UNMET):
        return entry
    reason = f"{' and '.join(sorted(distributions))} both provide {entry.name!r}."
    fix = f"name one of them (timmx {entry.selector} ...), or uninstall the other"
    return replace(entry, state=State.DUPLICATE, reason=reason, fix=fix)


def _unreadable(distribution: Any, file: str, exc: Exception) -> BackendEntry:
    # The name of its folder is all that is certain: `my_package-1.2.3.dist-info`.
    folder = getattr(distribution, "_path", None)
    name, _, version = shown(getattr(folder, "stem", "unknown")).partition("-")
    return BackendEntry(
        name="",
        distribution=canonical(name),
        version=version,
        summary="",
        target="",
        state=State.BROKEN,
        reason=f"{file} in {shown(folder)} cannot be read ({shown(one_line(exc))}).",
        fix=f"reinstall it (uv pip install --reinstall {canonical(name)}), or remove that folder",
    )


@cache
def _installed_version(name: str) -> str | None:
    try:
        return headers(importlib_metadata.distribution(name))["Version"][0]
    except (importlib_metadata.PackageNotFoundError, *UNREADABLE):
        return None


def _unmet_requirements(requirements: Iterable[str], optional: set[str]) -> list[tuple[str, str]]:
    """Requirements that this environment does not meet, each with its status; those in `optional` are skipped."""
    from packaging.requirements import InvalidRequirement, Requirement

    unmet = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if canonical(requirement.name) in optional:
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = f"{requirement.name}{requirement.specifier}"
        version = _installed_version(requirement.name)
        if version is None:
            unmet.append((name, "not installed"))
        elif not requirement.specifier.contains(version, prereleases=True):
            unmet.append((name, f"found {version}"))
    return unmet
