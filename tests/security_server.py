"""Runs `timmx` commands in forked children, each in a state in which no runtime has threads; for fuzz tests.

`python -m security_server` imports what the commands need and has one thread. For each line of JSON on stdin it forks
a child that runs one command, watches its time and memory, and writes a line of JSON on stdout.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS, RESIDENT_BYTES = 20.0, 2_000_000_000
"""Limits of a command: processor time, and resident memory."""
_WAIT_SECONDS = 300.0
"""Limit of a command that waits, on a machine with other work."""

_IMPORTS = (
    "timmx.cli.application",
    "torch.export",
    "timm",
    "numpy",
    "PIL.Image",
    "onnx",
    "ai_edge_litert.interpreter",
    "ai_edge_litert.schema_py_generated",
    "timmx_litert.runner",
    "timmx_coreml.runner",
    "timmx_coreml.mil",
    "timmx_coreml.neural_network",
    "timmx_torch_export.runner",
    "timmx_onnx.proto",
    "timmx_onnx.plugin",
    "timmx_litert.plugin",
    "timmx_litert.inspection",
    "timmx_coreml.plugin",
    "timmx_coreml.inspection",
    "timmx_tensorrt.plugin",
    "timmx_tensorrt.sidecar",
    "timmx_torch_export.plugin",
    "timmx.tools.predict.prediction",
    "timmx.tools.inspect.inspection",
    "rich.table",
    "PIL.PngImagePlugin",
)
"""Not onnxruntime: importing it starts a thread."""
_FIRST = (["inspect", "missing.onnx"], ["predict", "missing.onnx", "missing.png"])
"""What the server itself runs first, which imports the rest."""


class Server:
    """The server as a process; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "security_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
                "OMP_NUM_THREADS": "1",
                "PYTHONFAULTHANDLER": "",
            },
        )

    def run(self, folder: Path, *arguments: object) -> dict[str, Any]:
        """Run a command in a folder.

        Returns:
            `exit` (negative for a signal), `stdout`, `stderr`, `seconds`, `cpu_seconds`, `resident` (bytes), `limit`
            (the limit that ended it, or ""), and `crash`, what `timmx` says if it watches such a process.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"folder": str(folder), "arguments": [str(argument) for argument in arguments]}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    for name in _IMPORTS:
        importlib.import_module(name)
    from timmx.cli.application import app
    from typer.main import get_command

    command = get_command(app)
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for arguments in _FIRST:
        with contextlib.suppress(SystemExit):
            command(arguments)
    os.dup2(stderr, 2)
    gc.collect()
    gc.freeze()  # children do not copy the pages of all objects when they collect garbage
    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else 1
    assert threads == 1, f"an import has started {threads - 1} threads"
    with tempfile.TemporaryDirectory() as home:  # runtimes write caches there
        for line in sys.stdin:
            print(json.dumps(_watch(json.loads(line), command, home)), file=answers, flush=True)


def _watch(request: dict[str, Any], command: Any, home: str) -> dict[str, Any]:
    import psutil
    from timmx.cli.start import crash, last_runtime

    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(request, home, stdout.fileno(), stderr.fileno(), theirs.fileno(), command)
        seconds = 0.0
        limit, resident, pause = "", 0, 0.002
        process = psutil.Process(pid)
        while True:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                break
            with contextlib.suppress(psutil.Error):
                resident = max(resident, process.memory_info().rss)
                used = process.cpu_times()
                seconds = used.user + used.system
            if resident > RESIDENT_BYTES:
                limit = "memory"
            elif seconds > SECONDS or time.monotonic() - start > _WAIT_SECONDS:
                limit = "time"
            if limit:
                os.kill(pid, signal.SIGKILL)
            time.sleep(pause)
            pause = min(0.02, pause * 1.3)
        theirs.close()
        code = os.waitstatus_to_exitcode(status)
        opened = last_runtime(ours)
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return {
        "exit": code,
        "crash": crash(-code, opened) if code < 0 else "",
        "stdout": texts[0],
        "stderr": texts[1],
        "seconds": round(time.monotonic() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "resident": resident,
        "limit": limit,
    }


def _child(request: dict[str, Any], home: str, stdout: int, stderr: int, watcher: int, command: Any) -> None:
    code = 99
    try:
        for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, stdout), (2, stderr)):
            os.dup2(file, number)
        os.setpgid(0, 0)
        os.chdir(request["folder"])
        os.environ |= {"TIMMX_WATCHER": f"{watcher}:{os.getppid()}", "HOME": home, "XDG_CACHE_HOME": home}
        sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        try:
            command(request["arguments"])
            code = 0
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 98
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()
