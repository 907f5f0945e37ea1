"""Starts Python processes without importing torch and timm in each: `run` and `Popen`, like those of `subprocess`.

An import of torch and timm takes 5 s of processor time. On Linux, one server for all workers of a test session imports
them once, runs no thread, and forks a child for each command. The child has its own environment, folder, standard
streams and signals, and ends as Python does. It is not a new interpreter: variables that Python reads when it starts,
such as PYTHONUTF8, are refused, and libraries are loaded already. A test of what a command imports or of how Python
starts uses `subprocess`. Elsewhere, this module starts new interpreters.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PRELOAD = ("onnx", "onnxscript", "typer", "rich.progress", "rich.table")
"""Libraries that start no thread, in addition to those of every export. Modules of timmx are imported by each child."""

READ_AT_START = {
    "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE", "PYTHONWARNINGS", "LC_ALL", "LANG",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TORCH_HOME",
}  # fmt: skip
"""Variables that Python or a library of `PRELOAD` reads when it starts."""

cpu_s = 0.0
"""Processor seconds of the children that have ended."""

_connection: socket.socket | None = None


def run(
    command: list[str], *, input: str | None = None, timeout: float | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a Python command, with text, captured and unchecked: `[sys.executable, "-m" or "-c", ...]`."""
    streams = {"stdin": subprocess.PIPE if input is not None else subprocess.DEVNULL}
    streams |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Popen(command, **streams | options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def Popen(command: list[str], **options: Any) -> Any:  # noqa: N802 - it stands for `subprocess.Popen`
    """Start a Python command: `[sys.executable, "-m" or "-c", ...]`.

    With `finalize`, a forked process frees all objects at its end, as Python does, which takes 0.6 s.
    """
    if sys.platform == "linux":
        return _Forked(command, **options)
    options.pop("finalize", None)
    return subprocess.Popen(command, **options)


class _Forked:
    """A forked process, with the part of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        command: list[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        text: bool = False,
        encoding: str | None = None,
        cwd: Any = None,
        env: dict[str, str] | None = None,
        start_new_session: bool = False,
        finalize: bool = False,
    ) -> None:
        if command[0] != sys.executable or command[1] not in ("-m", "-c"):
            raise ValueError(f"not a command for Python with -m or -c: {command}")
        env = dict(os.environ if env is None else env)
        changed = {name for name in READ_AT_START if env.get(name) != os.environ.get(name)}
        if changed:
            raise ValueError(f"read when a process starts, so use `subprocess`: {', '.join(sorted(changed))}")
        sys.audit("subprocess.Popen", sys.executable, command, cwd, env)
        self.args, self.returncode = command, None
        self.stdin, read = _pipe(stdin, 0, text or encoding, writes=True)
        self.stdout, out = _pipe(stdout, 1, text or encoding, writes=False)
        self.stderr, err = (
            (None, out) if stderr == subprocess.STDOUT else _pipe(stderr, 2, text or encoding, writes=False)
        )
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {"command": command, "cwd": str(cwd or Path.cwd()), "env": env}
        request |= {"session": start_new_session, "finalize": finalize}
        socket.send_fds(_server(), [json.dumps(request).encode()], [read, out, err, theirs.fileno()])
        theirs.close()
        for descriptor in {read, out, err} - {0, 1, 2}:
            os.close(descriptor)
        self.pid = int(self._status.recv(64))

    def __enter__(self) -> _Forked:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self.wait()

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        global cpu_s
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            code, used = json.loads(self._status.recv(256))
            self._status.close()
            self.returncode, cpu_s = code, cpu_s + used
        return self.returncode

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        end = None if timeout is None else time.monotonic() + timeout
        contents: dict[str, Any] = {}

        def read(name: str) -> None:
            with suppress(ValueError):  # closed by `__exit__` after a timeout
                contents[name] = getattr(self, name).read()

        def write() -> None:
            with suppress(BrokenPipeError), self.stdin:
                if input is not None:
                    self.stdin.write(input)

        tasks = [(read, (name,)) for name in ("stdout", "stderr") if getattr(self, name) is not None]
        tasks += [(write, ())] if self.stdin is not None and not self.stdin.closed else []
        threads = [threading.Thread(target=task, args=values, daemon=True) for task, values in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if end is None else max(0.0, end - time.monotonic()))
        return contents.get("stdout"), contents.get("stderr")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _pipe(kind: Any, number: int, text: object, *, writes: bool) -> tuple[Any, int]:
    """This end of a stream as a file, and the child's end."""
    if kind is None:
        return None, number
    if kind == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    if kind != subprocess.PIPE:
        return None, os.dup(kind if isinstance(kind, int) else kind.fileno())
    read, write = os.pipe()
    ours, theirs = (write, read) if writes else (read, write)
    return os.fdopen(ours, ("w" if writes else "r") + ("" if text else "b")), theirs


def _server() -> socket.socket:
    """The connection to the server, which the first of the workers starts."""
    global _connection
    if _connection is None:
        session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
        address = f"\0timmx-tests-{session}"  # abstract: it vanishes with the server
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener, suppress(OSError):  # another worker has started it
            listener.bind(address)
            listener.listen()
            subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno()), *_libraries(), *PRELOAD],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        _connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for _ in range(100):
            with suppress(ConnectionRefusedError):
                _connection.connect(address)
                break
            time.sleep(0.1)
    return _connection


def _libraries() -> list[str]:
    from timmx.exporting import MODULES

    return [name for name in MODULES if not name.startswith("timmx.")]


def _serve(listener: socket.socket, modules: list[str]) -> None:
    """Import modules, and fork a child for each request, until the last of the workers has gone."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    libraries = [path for path in sys.path[1:] if path not in inherited]
    for name in modules:
        importlib.import_module(name)
    threads = os.listdir("/proc/self/task")  # noqa: PTH208
    assert len(threads) == 1, "a fork copies only the thread that calls it"
    gc.collect()
    gc.freeze()
    workers: list[socket.socket] = []
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([listener, *workers, *children], [], [])[0]:
            if ready in children:
                _report_end(*children.pop(ready))
                os.close(ready)
                continue
            if ready is listener:
                workers.append(listener.accept()[0])
                continue
            message, descriptors, _, _ = socket.recv_fds(ready, 2**20, 4)
            if not message:
                workers.remove(ready)
                if not workers:
                    return
                continue
            *streams, status = descriptors
            child = os.fork()
            if child == 0:
                for other in (listener, *workers):
                    other.close()
                for descriptor in (status, *children, *(status for _, status in children.values())):
                    os.close(descriptor)
                _become(json.loads(message), streams, libraries)
            for descriptor in streams:
                os.close(descriptor)
            children[os.pidfd_open(child)] = child, status
            os.write(status, str(child).encode())


def _report_end(child: int, status: int) -> None:
    """Send the exit code and the processor time of a child that has ended."""
    _, code, usage = os.wait4(child, 0)
    with suppress(BrokenPipeError):
        os.write(
            status, json.dumps((os.waitstatus_to_exitcode(code), usage.ru_utime + usage.ru_stime)).encode()
        )
    os.close(status)


def _become(request: dict[str, Any], streams: list[int], libraries: list[str]) -> NoReturn:
    """Be the process that the command asks for, and end without freeing what was imported."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    for descriptor in streams:
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False, errors=sys.stdout.errors)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors=sys.stderr.errors, buffering=1)  # noqa: SIM115
    if request["session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    _, kind, program, *arguments = request["command"]
    folders = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    first = [] if os.environ.get("PYTHONSAFEPATH") else [os.getcwd() if kind == "-m" else ""]  # noqa: PTH109
    sys.path[:] = [*first, *folders, *libraries]
    sys.argv = [kind, *arguments]
    importlib.invalidate_caches()
    code: object = 0
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(program, "<string>", "exec"), main.__dict__)
    except SystemExit as end:
        code = end.code
        if not isinstance(code, int | None):
            print(code, file=sys.stderr)
            code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        code = 1
    if request["finalize"]:
        sys.exit(code)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
