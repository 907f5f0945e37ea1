"""The console script. Commands that open a file run in a child, so that a crash of a runtime has an error message.

A runtime is native code: given a damaged file, it can end the whole process by a signal, and Python cannot say
anything. The parent imports next to nothing, and waits. A fork would be faster, but on macOS a forked process cannot
use Core ML.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from timmx.base import WATCHER, watcher

_WATCHED = ("predict", "eval", "verify", "compare")
"""`bench` has its own child processes, `inspect` and `--help` load no runtime, and an export is not run in a child."""

_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGSYS")


def main() -> None:
    """The console script."""
    if _is_watchable():
        sys.exit(_watch())
    descriptor = watcher()
    if descriptor is not None:
        os.set_inheritable(descriptor, False)
        threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    from timmx.cli.application import main as run

    run()


def _is_watchable() -> bool:
    """Whether this process can be started once more, by the command line that started it."""
    arguments = sys.argv[1:]
    if os.name != "posix" or WATCHER in os.environ:
        return False
    if not arguments or arguments[0] not in _WATCHED or "--help" in arguments:
        return False
    if sys.orig_argv[-len(arguments) :] != arguments:  # main() was called by another program
        return False
    try:
        for descriptor in range(3):
            os.fstat(descriptor)
    except OSError:  # a closed standard stream: the socket would take its place
        return False
    return True


def _watch() -> int:
    """Run the command in a child, and return the exit code."""
    ours, theirs = socket.socketpair()
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    # Ctrl-C reaches both processes; the child ignores the second of two at once.
    for name in ("SIGINT", "SIGTERM"):
        if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), forward)
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env=os.environ | {"PYTHONSAFEPATH": "1", WATCHER: f"{theirs.fileno()}:{os.getpid()}"},
        pass_fds=(theirs.fileno(),),
    )
    theirs.close()
    for number in early:
        child.send_signal(number)
    code = child.wait()
    if code >= 0:
        return code
    message = crash(-code, last_runtime(ours))
    if not message:
        return 128 - code
    from timmx.cli.output import write_error, write_json

    hint = (
        ""
        if -code == signal.SIGKILL
        else "export it again; if it is a valid file, report it to the runtime's authors"
    )
    write_error(message, hint)
    if "--json" in sys.argv:
        write_json({"error": {"type": "RuntimeCrash", "message": message, "hint": hint}})
    return 1


def last_runtime(stream: socket.socket) -> tuple[str, str]:
    """The runtime that a child opened last, and the file; empty if it opened none."""
    stream.setblocking(False)
    content = b""
    with suppress(BlockingIOError, ConnectionError):
        while part := stream.recv(2**16):
            content += part
    lines = content.decode(errors="replace").splitlines()
    runtime, _, file = lines[-1].partition("\t") if lines else ("", "", "")
    return runtime, file


def crash(number: int, opened: tuple[str, str]) -> str:
    """The message about a process that a signal ended; empty for a signal that was meant to end it.

    Args:
        number: of the signal.
        opened: of `last_runtime`.
    """
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    runtime, file = opened
    if name == "SIGKILL":
        return "the process was killed by SIGKILL, as the system does when memory runs out"
    if name not in _CRASHES:
        return ""
    if not runtime:
        return f"Python or one of its libraries crashed ({name})"
    return f"{runtime} crashed ({name}) after it was given {file}"


def _end_with_parent(descriptor: int) -> Any:
    """End this process when its parent was killed: nobody waits for it any more."""
    stream = socket.socket(fileno=descriptor)
    with suppress(OSError):
        stream.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)
