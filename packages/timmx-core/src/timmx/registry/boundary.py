"""The boundary to plugins: each call of a backend's or a runner's method passes it, and what comes back is checked.

A plugin is third-party code. If it raises what is not a TimmxError, ends the process, or returns what the
contract does not allow, the cause is that plugin, not timmx: a PluginError names it and the method.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

from timmx.base import announce, shown
from timmx.contract import (
    Capabilities,
    ExportBackend,
    Exported,
    Problem,
    Runner,
    RuntimeDevice,
    Snippet,
    TensorSpec,
    WeightsLimit,
)
from timmx.errors import PluginError, Terminated, TimmxError, one_line
from timmx.registry.options import option_specs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

Check = Callable[[Any], str]
"""What a value must be, if it is not that; empty if it is."""

_OURS = (TimmxError, PluginError, Terminated)
"""Errors that pass the boundary as they are."""

_CORE_COMMAND = "timmx.exporting.command"
"""The module whose function a plugin's own `create_command` calls: what it raises is not the plugin's."""


class _Thread(threading.local):
    """What this thread is doing."""

    in_method = False
    """It runs a plugin's method. The calls of a plugin to itself are not checked: it may catch its own errors."""
    watched = 0
    """How many plugin calls of this thread may not end the process."""


_thread = _Thread()


def guard(backend: ExportBackend, plugin: str, pickled: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
    """Put a backend behind the boundary, and every runner that it opens.

    Args:
        backend: gets a subclass of its class, in which each method of its own is watched.
        plugin: the backend's name, distribution and version, for messages.
        pickled: a function and its arguments, with which another process gets this backend.
    """
    _watch(backend, ExportBackend, _backend_checks(plugin), plugin)
    cls: Any = type(backend)
    cls.__reduce__ = lambda self: pickled


def attribute_trouble(backend: ExportBackend) -> str:
    """Why the attributes of a backend's class are not what the contract says; empty if they are."""
    for name, check in _ATTRIBUTES.items():
        value = getattr(backend, name, None)
        if expected := check(value):
            return f"its `{name}` is {_described(value)}, and must be {expected}."
    return ""


@contextmanager
def watching_exits() -> Iterator[None]:
    """While a plugin runs in this thread, `os._exit` raises SystemExit here.

    In a child that the plugin forks it works as before. Other threads cannot be stopped from here: there it ends the
    process, but never with exit code 0, which would mean success. Native code is out of reach.
    """
    _exits.replace()
    _thread.watched += 1
    try:
        yield
    finally:
        _thread.watched -= 1
        _exits.restore()


class _ExitCall(SystemExit):
    """A plugin called `os._exit`."""


class _Exits:
    """Replaces `os._exit` while any thread runs a plugin."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plugins = 0
        self._process = 0
        self._exit: Callable[[int], Any] = os._exit

    def replace(self) -> None:
        with self._lock:
            if not self._plugins:
                self._exit, self._process = os._exit, os.getpid()
                os._exit = self._on_call
            self._plugins += 1

    def restore(self) -> None:
        with self._lock:
            self._plugins -= 1
            if not self._plugins:
                os._exit = self._exit  # type: ignore[assignment]

    def _on_call(self, status: int) -> Any:
        if self._plugins and os.getpid() == self._process:
            if _thread.watched:
                raise _ExitCall(status)
            status = status or 1
        self._exit(status)


_exits = _Exits()


def _watch(value: Any, contract: type, checks: Mapping[str, Check], plugin: str) -> None:
    """Give an object a subclass of its class that watches the methods which differ from those of the contract."""
    cls: Any = type(value)
    if "_timmx_plugin" in vars(cls):
        return
    own = {
        name: getattr(cls, name)
        for name in checks
        if name in _DELEGATES or getattr(cls, name) is not getattr(contract, name)
    }
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    names |= {"__slots__": (), "_timmx_plugin": plugin}
    watched = type(cls)(cls.__name__, (cls,), names)

    def method(name: str, inherited: Any) -> Any:
        if isinstance(inherited, property):
            return property(
                lambda self: _call(plugin, name, checks[name], lambda: getattr(super(watched, self), name))
            )

        @functools.wraps(inherited)
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            function = getattr(super(watched, self), name)
            if name in _OPENS and not _thread.in_method:
                announce(self.runtime or f"the runtime of {plugin}", Path(*arguments[:1]).name)
            return _call(plugin, name, checks[name], function, *arguments, **options)

        return call

    for name, inherited in own.items():
        setattr(watched, name, method(name, inherited))
    value.__class__ = watched


def _call(
    plugin: str, name: str, check: Check, function: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    if _thread.in_method:
        return function(*args, **options)
    _thread.in_method = True
    try:
        with _UNWATCHED if name in _RUNS else watching_exits():
            result = function(*args, **options)
            expected = check(result)
    except _OURS:
        raise
    except SystemExit as exc:
        raise _ended(plugin, name, exc) from exc
    except Exception as exc:
        if name in _RUNS:
            raise
        raise PluginError(plugin, f"{name} raised {shown(one_line(exc))}") from exc
    finally:
        _thread.in_method = False
    if expected:
        raise PluginError(plugin, f"{name} returned {_described(result)} instead of {expected}")
    return _watch_command(plugin, result) if name == "create_command" else result


def _ended(plugin: str, name: str, exc: SystemExit) -> PluginError:
    call = "os._exit" if isinstance(exc, _ExitCall) else "sys.exit"
    status = "" if exc.code is None else shown(repr(exc.code))[:100]
    return PluginError(plugin, f"{name} called {call}({status})")


_OPENS = ("open", "open_exported")
_RUNS = ("run", "run_intermediates", "run_operation")
"""A runtime raises any exception for a file that it cannot run, which says nothing about the plugin: the callers turn
it into an ArtifactError. They watch exits too: it takes 5 us, which `timmx bench` would measure."""
_DELEGATES = ("run_operation",)
"""Methods of the contract that call an object of the plugin."""
_UNWATCHED: nullcontext[None] = nullcontext()


def _watch_command(plugin: str, command: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a plugin's own `create_command`. It calls the core, which calls the plugin: no method, then."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            with watching_exits():
                result = command(*arguments, **options)
        except _OURS:
            raise
        except SystemExit as exc:
            raise _ended(plugin, "the function of create_command", exc) from exc
        except Exception as exc:
            if _passed(exc.__traceback__, _CORE_COMMAND):
                raise
            fault = f"the function of create_command raised {shown(one_line(exc))}"
            raise PluginError(plugin, fault) from exc
        if not hasattr(result, "to_dict"):
            fault = f"the function of create_command returned {_described(result)} instead of an ExportResult"
            raise PluginError(plugin, fault)
        return result

    return run


def _passed(traceback: TracebackType | None, module: str) -> bool:
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") == module:
            return True
        traceback = traceback.tb_next
    return False


def _described(value: Any) -> str:
    """A value in a message: itself if it is short, else its type."""
    if value is None or isinstance(value, (str, bool, int, float)) or value in ((), [], {}):
        text = repr(value)
        if len(text) <= 60:
            return shown(text)
    kind = type(value)
    return f"{'an' if kind.__name__[:1].lower() in 'aeiou' else 'a'} {shown(kind.__name__)}"


def _is(*kinds: type, expected: str) -> Check:
    return lambda value: "" if isinstance(value, kinds) else expected


def _all(kind: type, expected: str, *, least: int = 0) -> Check:
    def check(value: Any) -> str:
        right = (
            isinstance(value, (tuple, list))
            and len(value) >= least
            and all(isinstance(item, kind) for item in value)
        )
        return "" if right else expected

    return check


def _command(value: Any) -> str:
    if not callable(value):
        return "a function"
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for item in inspect.signature(value).parameters.values():
        if item.kind not in kinds and get_origin(item.annotation) is not Annotated:
            return f"a function whose parameter `{item.name}` is Annotated"
    return ""


def _suffix(value: Any) -> str:
    return "" if isinstance(value, str) and value and "/" not in value else "a suffix"


def _suffixes(value: Any) -> str:
    right = isinstance(value, tuple) and value and not any(map(_suffix, value))
    return "" if right else "a tuple of suffixes, the default first"


def _options(value: Any) -> str:
    if not isinstance(value, type) or not is_dataclass(value):
        return "a dataclass"
    try:
        option_specs(value)
    except (TypeError, NameError, AttributeError) as exc:
        return f"a dataclass of options ({shown(one_line(exc))})"
    return ""


def _json_object(value: Any) -> str:
    if not isinstance(value, dict):
        return "a dict of JSON values"
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as exc:
        return f"a dict of JSON values ({shown(one_line(exc))})"
    return ""


def _facts(value: Any) -> str:
    if trouble := _json_object(value):
        return trouble
    counts = value.get("operations", {})
    if not isinstance(counts, dict) or not all(isinstance(count, int) for count in counts.values()):
        return "a dict whose `operations` are numbers by name"
    for side in ("inputs", "outputs"):
        tensors = value.get(side, [])
        if not isinstance(tensors, (list, tuple)) or not all(isinstance(tensor, dict) for tensor in tensors):
            return f"a dict whose `{side}` are a list of dicts"
    return ""


def _exported(value: Any) -> str:
    if not isinstance(value, Exported):
        return "Exported(precision, notes)"
    return _all(str, "Exported(precision, notes) whose notes are texts")(value.notes)


def _snippet(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, Snippet):
        return "a Snippet or None"
    for field in fields(Snippet):
        item = getattr(value, field.name)
        if isinstance(field.default, tuple):
            right = isinstance(item, tuple) and all(isinstance(line, str) for line in item)
        else:
            right = isinstance(item, type(field.default))
        if not right:
            return (
                f"a Snippet whose `{field.name}` is a {type(field.default).__name__}, not {_described(item)}"
            )
    return ""


def _runner(value: Any) -> str:
    if not isinstance(value, Runner):
        return "a Runner"
    for name, kind in (("inputs", TensorSpec), ("outputs", TensorSpec), ("batch_sizes", int)):
        if _all(kind, "wrong", least=1)(getattr(value, name)):
            return f"a Runner whose `{name}` are a tuple of {kind.__name__}, one or more"
    return "" if isinstance(value.engine, str) else "a Runner whose `engine` is a text"


def _arrays(value: Any) -> str:
    array = sys.modules["numpy"].ndarray
    right = isinstance(value, dict) and all(isinstance(item, array) for item in value.values())
    return "" if right else "a dict of numpy arrays by name"


def _anything(value: Any) -> str:
    return ""


_RUNNER: dict[str, Check] = {
    "run": _arrays,
    "run_intermediates": _arrays,
    "run_operation": _arrays,
    "notes": _all(str, "a tuple of texts"),
    "close": _anything,
}
_ATTRIBUTES: dict[str, Check] = {
    "help": _is(str, expected="a text"),
    "suffixes": _suffixes,
    "companions": _all(str, "a tuple of texts"),
    "options": _options,
    "capabilities": _is(Capabilities, expected="a Capabilities"),
    "caveat": _is(str, expected="a text"),
    "runtime": _is(str, expected="a text"),
    "runtime_devices": _all(RuntimeDevice, "a tuple of RuntimeDevice"),
    "snippet_languages": _all(str, "a tuple of texts"),
    "toolchain": _all(str, "a tuple of texts"),
    "preload": _all(str, "a tuple of texts"),
}


def _backend_checks(plugin: str) -> dict[str, Check]:
    """What each method of a backend returns by the contract; runners and commands are watched from then on."""

    def opened(value: Any) -> str:
        if trouble := _runner(value):
            return trouble
        _watch(value, Runner, _RUNNER, plugin)
        return ""

    return {
        "create_command": _command,
        "output_suffix": _suffix,
        "extra_outputs": _all(Path, "Paths"),
        "source_artifact": _is(Path, type(None), expected="a Path or None"),
        "weights_limit": _is(WeightsLimit, type(None), expected="a WeightsLimit or None"),
        "check_environment": _all(Problem, "a tuple of Problem"),
        "validate": _anything,
        "export": _exported,
        "open": opened,
        "open_exported": opened,
        "read_metadata": _json_object,
        "inspect": _facts,
        "snippet": _snippet,
        "files": _all(Path, "a tuple of paths, the artifact first", least=1),
    }
