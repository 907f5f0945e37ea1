"""Starts and ends child processes, forked from a process that has imported libraries once, or spawned.

On Linux, children are forked from multiprocessing's fork server, which runs no thread: fork copies only the thread that
calls it, and locks that others held stay locked. Elsewhere children are spawned, and each imports torch again: system
libraries of macOS that Core ML uses do not work after a fork, and Windows has none. A child that has loaded a model can
itself fork children, which then have the model; see `is_safe_to_fork`.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
from collections import deque
from contextlib import contextmanager, suppress
from enum import StrEnum
from multiprocessing import connection as connections
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from timmx.base import WAIT_POLICY, resident_bytes
from timmx.processes.child import LOG_NAME, SERVER, UNSAFE_FORK, child_main
from timmx.processes.forking import PRELOAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

_ENDING_S = 10.0


class StartMethod(StrEnum):
    """How children are started.

    SERVER: forked from a server that imports the modules of `preload` once.
    SPAWN: as new Python processes.
    FORK: forked from this process; see `is_safe_to_fork`.
    """

    SERVER = "forkserver"
    SPAWN = "spawn"
    FORK = "fork"

    @staticmethod
    def default() -> StartMethod:
        """The fastest method that works on this system."""
        return StartMethod.SERVER if sys.platform == "linux" else StartMethod.SPAWN


class Message(NamedTuple):
    """An event of a child with its values."""

    event: str
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


class ProcessLauncher:
    """Starts a process for each task; a context manager that removes temporary files.

    Args:
        body: what a child does: takes a task, and a function that sends an event with values. With other methods than
            FORK, `body` and the tasks are pickled.
        preload: modules that SERVER imports once.
        method: how children are started.
        shows_output: leave the output of libraries as it is; otherwise it goes to a log, whose last line says why a
            process has crashed.
    """

    def __init__(
        self,
        body: Callable[[Any, Callable[[str, Mapping[str, Any]], None]], None],
        preload: Sequence[str] = (),
        *,
        method: StartMethod | None = None,
        shows_output: bool = False,
    ) -> None:
        self._body, self._preload, self._shows_output = body, preload, shows_output
        self._scratch = Path(tempfile.mkdtemp(prefix="timmx-process-"))
        self._number = 0
        self._method = method or StartMethod.default()
        self._connections: set[connections.Connection] = set()

    def __enter__(self) -> ProcessLauncher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def start(self, task: Any) -> Child:
        """Start a child."""
        self._number += 1
        scratch = self._scratch / str(self._number)
        scratch.mkdir(parents=True)
        return _ProcessChild(self, task, scratch)

    def start_process(self, task: Any, scratch: Path) -> tuple[Any, connections.Connection]:
        """Start the process of a child; returns it and this end of the pipe to it."""
        context: Any = multiprocessing.get_context(self._method)
        if self._method is StartMethod.SERVER:
            context.set_forkserver_preload([SERVER])
        ours, theirs = context.Pipe()
        options: dict[str, Any] = {"shows_output": self._shows_output}
        if self._method is StartMethod.FORK:
            options["unused"] = [ours, *self._connections]
        process = context.Process(target=child_main, args=(theirs, self._body, task, scratch), kwargs=options)
        with _environment(self._preload if self._method is StartMethod.SERVER else None):
            process.start()
        theirs.close()
        self._connections.add(ours)
        return process, ours

    def close(self, connection: connections.Connection) -> None:
        """Close this end of the pipe to a child."""
        self._connections.discard(connection)
        connection.close()

    def stop_forking(self) -> None:
        """Spawn all further children."""
        self._method = StartMethod.SPAWN

    def wait(self, children: Sequence[Child], seconds: float) -> None:
        """Wait until a child reports something or ends, at most this long."""
        handles = [
            handle for child in children if isinstance(child, _ProcessChild) for handle in child.handles()
        ]
        connections.wait(handles, seconds)


@contextmanager
def _environment(preload: Sequence[str] | None) -> Iterator[None]:
    """Environment variables for the processes that multiprocessing starts with the first child."""
    variables = {
        # its resource tracker would warn about locks of libraries in children that were killed
        "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
        # NumPy's OpenBLAS would start threads when it is imported, and a process with threads is not forked
        "OPENBLAS_NUM_THREADS": "1",
        WAIT_POLICY: os.environ.get(WAIT_POLICY, "PASSIVE"),
    }
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

    def __init__(self, launcher: ProcessLauncher, task: Any, scratch: Path) -> None:
        self._launcher, self._task, self._scratch = launcher, task, scratch
        self._messages: deque[Message] = deque()
        self._is_open = True
        self._process, self._connection = launcher.start_process(task, scratch)

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
            self._launcher.close(self._connection)
            self._process, self._connection = self._launcher.start_process(self._task, self._scratch)
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
        self._launcher.close(self._connection)
        self._is_open = False
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _receive(self) -> None:
        try:
            while self._is_open and self._connection.poll():
                self._messages.append(Message(*pickle.loads(self._connection.recv_bytes())))
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
