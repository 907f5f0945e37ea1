"""The body of a child process: its streams, its temporary files, and its end with its parent."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from timmx.registry import skip_unreadable_entry_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

SERVER = "timmx.processes.server"
"""The module that the fork server imports."""

LOG_NAME = "log"
"""The file for the output of libraries, in the folder for temporary files."""

UNSAFE_FORK = 77
"""Exit code of a child that was forked from a process with threads: it has done nothing, and is to be spawned."""

WAITING_THREADS = 1
"""Number of threads that `child_main` starts, which only wait for input."""


@dataclass
class _Pipe:
    """Sends events from any thread."""

    connection: Connection
    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, event: str, values: Mapping[str, Any]) -> None:
        with self.lock:
            self.connection.send_bytes(pickle.dumps((event, values)))


def child_main(
    connection: Connection,
    body: Callable[[Any, Callable[[str, Mapping[str, Any]], None]], None],
    task: Any,
    scratch: Path,
    *,
    shows_output: bool = False,
    unused: Sequence[Connection] = (),
) -> None:
    """Run `body` in this process, and end it.

    Args:
        connection: to the parent; when its other end is closed, this process ends.
        body: takes the task, and a function that sends an event with values to the parent.
        task: what to do.
        scratch: a folder for temporary files, which the parent removes.
        shows_output: leave the output of libraries as it is; otherwise it goes to a log.
        unused: connections that a fork has copied. While a copy is open, their other ends do not notice that the
            parent has ended.
    """
    server = sys.modules.get(SERVER)
    if server is not None and os.getpid() != server.FORKED_FROM and server.THREADS > 1:
        os._exit(UNSAFE_FORK)
    for copied in unused:
        copied.close()
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in a terminal reaches the parent only, which ends this process with its children
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _redirect(scratch, shows_output)
    threading.Thread(target=_end_with_parent, args=(connection, scratch), daemon=True).start()
    gc.set_threshold(100_000, 20, 50)  # as in the command
    skip_unreadable_entry_points()
    body(task, _Pipe(connection).send)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)  # not kept alive by a converter's threads and exit handlers


def _redirect(scratch: Path, shows_output: bool) -> None:
    """Write the output of libraries to a log, and temporary files to the scratch folder."""
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - no file of ours
        os.dup2(nothing.fileno(), 0)
    if not shows_output:
        with open(scratch / LOG_NAME, "ab") as log:  # noqa: PTH123 - no file of ours
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    for name in ("TMPDIR", "TEMP", "TMP"):
        os.environ[name] = str(scratch)
    tempfile.tempdir = str(scratch)


def _end_with_parent(connection: Connection, scratch: Path) -> None:
    """End this process when its parent has ended: nobody reads its results any more."""
    with suppress(EOFError, OSError):
        connection.recv_bytes()
    shutil.rmtree(scratch, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
