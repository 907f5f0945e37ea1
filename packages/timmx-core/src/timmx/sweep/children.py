"""Starts and ends the child processes of a sweep, forked from a process that has imported everything once.

On Linux, children are forked from multiprocessing's fork server, which runs no thread: fork copies only the thread that
calls it, and locks that others held stay locked. Elsewhere children are spawned, and each imports torch again: system
libraries of macOS that Core ML uses do not work after a fork, and Windows has none.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from contextlib import contextmanager, suppress
from multiprocessing import connection as connections
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from timmx.base import resident_bytes
from timmx.sweep.preload import PRELOAD
from timmx.sweep.worker import LOG_NAME, UNSAFE_FORK, Event, Task, child_main

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

_ENDING_S = 10.0


class Message(NamedTuple):
    """An event of a child with its values."""

    event: Event
    values: dict[str, Any]


class Child(Protocol):
    """A process that works on a task."""

    def messages(self) -> list[Message]:
        """What it has reported since the last call."""

    def ending(self) -> str | None:
        """Why it has ended, empty if its work was done; None if it still runs."""

    def memory_bytes(self) -> int | None:
        """Its resident memory now."""

    def end(self) -> None:
        """Kill it if it still runs, with the processes that it has started, and remove its temporary files."""


class Launcher(Protocol):
    """Starts children and waits for them."""

    def start(self, task: Task) -> Child:
        """Start a child."""

    def wait(self, children: Sequence[Child], seconds: float) -> None:
        """Wait until a child reports something or ends, at most this long."""


class ProcessLauncher:
    """Starts a process for each task; a context manager that removes temporary files.

    Args:
        preload: modules that backends ask to import once.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self._preload = preload
        self._scratch = Path(tempfile.mkdtemp(prefix="timmx-sweep-"))
        self._number = 0
        self._forks = sys.platform == "linux"

    def __enter__(self) -> ProcessLauncher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def start(self, task: Task) -> Child:
        self._number += 1
        scratch = self._scratch / str(self._number)
        scratch.mkdir(parents=True)
        return _ProcessChild(self, task, scratch)

    def spawn(self, task: Task, scratch: Path) -> tuple[Any, connections.Connection]:
        """Start the process of a child; returns it and this end of the pipe to it."""
        context: Any = multiprocessing.get_context("forkserver" if self._forks else "spawn")
        if self._forks:
            context.set_forkserver_preload(["timmx.sweep.preload"])
        ours, theirs = context.Pipe()
        process = context.Process(target=child_main, args=(theirs, task, scratch))
        with _environment(self._preload if self._forks else None):
            process.start()
        theirs.close()
        return process, ours

    def stop_forking(self) -> None:
        """Spawn all further children."""
        self._forks = False

    def wait(self, children: Sequence[Child], seconds: float) -> None:
        handles = [
            handle for child in children if isinstance(child, _ProcessChild) for handle in child.handles()
        ]
        connections.wait(handles, seconds)


@contextmanager
def _environment(preload: Sequence[str] | None) -> Iterator[None]:
    """Environment variables for the processes that multiprocessing starts with the first child."""
    # its resource tracker would warn about locks of libraries in children that were killed
    variables = {"PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
    if preload is not None:
        variables[PRELOAD] = ",".join(preload)
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _ProcessChild:
    """A child process and the pipe to it."""

    def __init__(self, launcher: ProcessLauncher, task: Task, scratch: Path) -> None:
        self._launcher, self._task, self._scratch = launcher, task, scratch
        self._messages: deque[Message] = deque()
        self._is_open = True
        self._process, self._connection = launcher.spawn(task, scratch)

    def handles(self) -> list[Any]:
        """What becomes ready when the child reports something or ends."""
        return [*([self._connection] if self._is_open else []), self._process.sentinel]

    def messages(self) -> list[Message]:
        self._receive()
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def ending(self) -> str | None:
        if self._process.is_alive():
            return None
        self._receive()  # what it reported just before its end
        code = self._process.exitcode
        if code == UNSAFE_FORK:
            self._launcher.stop_forking()
            self._connection.close()
            self._process, self._connection = self._launcher.spawn(self._task, self._scratch)
            self._is_open = True
            return None
        return "" if code == 0 else self._how_it_ended(code)

    def memory_bytes(self) -> int | None:
        return resident_bytes(self._process.pid)

    def end(self) -> None:
        pid = self._process.pid
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):  # ended, or not the leader of its group yet
                os.killpg(pid, signal.SIGKILL)
        if self._process.is_alive():
            self._process.kill()
        self._process.join(_ENDING_S)
        self._connection.close()
        self._is_open = False
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _receive(self) -> None:
        try:
            while self._is_open and self._connection.poll():
                values = json.loads(self._connection.recv_bytes())
                self._messages.append(Message(Event(values.pop("event")), values))
        except (EOFError, OSError):
            self._is_open = False

    def _how_it_ended(self, code: int) -> str:
        last = self._last_line()
        if code >= 0:
            return f"its process ended with exit status {code}{last}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        if name == "SIGKILL":
            return "its process was killed by SIGKILL, as the system does when memory runs out"
        return f"its process was killed by {name}{last}"

    def _last_line(self) -> str:
        """The last line that the process has printed."""
        try:
            with (self._scratch / LOG_NAME).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        text = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {text[:200]}" if text else ""
