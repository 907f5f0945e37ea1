"""Starts, queries and ends a worker process of the benchmark; they communicate by JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from timmx.base import reporter
from timmx.errors import TimmxError

if TYPE_CHECKING:
    from types import TracebackType

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_CLOSING_S = 5.0


class WorkerFailure(TimmxError):  # noqa: N818 - it becomes a line of the result
    """A request to a worker failed, or the worker died.

    Attributes:
        died: the process has ended.
        kind: the name of the `TimmxError` that it raised; empty for other exceptions.
    """

    def __init__(self, message: str, *, hint: str = "", died: bool = False, kind: str = "") -> None:
        super().__init__(message, hint=hint)
        self.died, self.kind = died, kind

    @property
    def line(self) -> str:
        """The message and the hint on one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class WorkerProcess:
    """A new Python process that runs `timmx.tools.bench.worker`; a context manager that ends it.

    Args:
        threads: number of threads that its libraries may use, set before they are imported.
    """

    def __init__(self, threads: int) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        variables = dict.fromkeys(_THREAD_VARIABLES, str(threads))
        # As in multiprocessing, the child can import what this process can; a safe path excludes the current folder.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        # torch.compile would start a process pool that outlives a killed worker.
        variables |= {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "timmx.tools.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=os.environ | variables,
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            WorkerFailure: the request failed, or the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise WorkerFailure(self._how_it_ended(), died=True)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailure(answer["error"], hint=answer["hint"], kind=answer["type"])
        return answer

    def close(self) -> None:
        """Let the process end; kill it after 5 s."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSING_S)
        self._end()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if not self._log.closed:
            for line in self._last_lines(20):
                reporter().detail(line)
            self._log.close()

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        how = f"ended with exit status {code}" if code >= 0 else f"was killed by {_signal_name(-code)}"
        if -code == getattr(signal, "SIGKILL", None):
            how += ", as the system does when memory runs out"
        last = self._last_lines(1)
        return f"its process {how}{f': {last[0]}' if last else ''}"

    def _last_lines(self, count: int) -> list[str]:
        self._log.seek(0)
        text = self._log.read().decode("utf-8", "replace")
        return [line.strip() for line in text.splitlines() if line.strip()][-count:]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
