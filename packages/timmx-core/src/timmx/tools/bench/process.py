"""A worker as the bench sees it: asked by JSON lines, named when it dies, gone when the bench ends."""

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
    """A worker refused what it was asked, or died.

    Attributes:
        died: the process is gone.
        kind: the name of the `TimmxError` that it raised; empty where it was another.
    """

    def __init__(self, message: str, *, hint: str = "", died: bool = False, kind: str = "") -> None:
        super().__init__(message, hint=hint)
        self.died, self.kind = died, kind

    @property
    def line(self) -> str:
        """The message and the hint in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class WorkerProcess:
    """A fresh Python process that runs `timmx.tools.bench.worker`. Usable in `with`, which ends it.

    Args:
        threads: that its libraries may use, set before they are imported.
    """

    def __init__(self, threads: int) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        variables = dict.fromkeys(_THREAD_VARIABLES, str(threads))
        # As multiprocessing does: what this process can import, so can the child; and -P leaves out the folder
        # that a user happens to be in.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        # torch.compile would start a pool of processes, which would outlive a worker that is killed.
        variables |= {"PYTHONPATH": path, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "timmx.tools.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            env=os.environ | variables,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something, and wait for the answer.

        Raises:
            WorkerFailure: it could not, or is gone.
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
        """Let it end by itself; kill it where it does not."""
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
        if not self._said.closed:
            for line in self._last_words(20):
                reporter().detail(line)
            self._said.close()

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        how = f"ended with exit status {code}" if code >= 0 else f"was ended by {_signal_name(-code)}"
        if -code == getattr(signal, "SIGKILL", None):
            how += ", as the system does when memory runs out"
        last = self._last_words(1)
        return f"its process {how}{f': {last[0]}' if last else ''}"

    def _last_words(self, count: int) -> list[str]:
        self._said.seek(0)
        text = self._said.read().decode("utf-8", "replace")
        return [line.strip() for line in text.splitlines() if line.strip()][-count:]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
