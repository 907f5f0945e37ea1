"""One file, or the PyTorch model, timed in a process of its own: its memory and its threads are nobody else's.

Run as `python -m timmx.tools.bench.worker`, it reads one JSON object a line on stdin and answers each with one on the
stdout that it was given; what libraries print goes to stderr. It ends with stdin, so that it never outlives whoever
started it. `timmx.tools.bench_process` is the other side.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import Reporter, reporting
from timmx.errors import TimmxError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from timmx.tools.subject import Subject

_BLOCK_S = 0.02
_WARM_UP_LEAST_S, _WARM_UP_MOST_S = 0.3, 3.0
"""A warm-up that has not settled by then ends all the same, and says so."""
_LEAD_IN_S = 0.01
"""Untimed at the start of each slice, at least one run: caches and cores come back to this case."""

_REST_S, _REST_CHECKS = 0.005, 40


class Worker:
    """What is timed, opened once, at one number of threads."""

    def __init__(self) -> None:
        self._subject: Subject | None = None
        self._feeds: dict[int, dict[str, np.ndarray]] = {}
        self.warnings: list[str] = []

    def open(
        self,
        path: str,
        threads: int,
        against: str | None = None,
        model_options: Mapping[str, Any] | None = None,
        compile: bool = False,
        is_model: bool = False,
    ) -> dict[str, Any]:
        """Open the file, or the model in its place.

        Args:
            path: of the file.
            threads: how many threads the runtime may use.
            against: names the model, for `timmx.tools.against.request_for`.
            model_options: its options.
            compile: have torch.compile make it.
            is_model: the model is meant, not the file.
        """
        start = memory()
        if is_model:
            self._subject = _open_model(Path(path), against, model_options, compile)
        else:
            from timmx.tools.subject import open_subject

            self._subject = open_subject(Path(path), threads=threads)
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(threads)
        runner = self._subject.runner
        return {
            "engine": runner.engine,
            "batch": runner.inputs[0].shape[0] if not is_model else "batch",
            "warnings": self.warnings,
            "start_bytes": start,
            "loaded_bytes": memory(),
        }

    def warm(self, batch: int) -> dict[str, Any]:
        """Run at this batch size until the latency has settled."""
        from timmx.tools.bench.timing import SETTLED_BLOCKS, settled, variation

        run = self._run_at(batch)
        (first,) = _timed(run, 0.0)  # which may compile or allocate: no part of what settles
        blocks: list[float] = []
        count = 1
        start = time.perf_counter()
        while True:
            block = _timed(run, _BLOCK_S)
            count += len(block)
            blocks.append(sorted(block)[len(block) // 2])
            spent = time.perf_counter() - start
            steady = settled(blocks)
            if steady and spent >= _WARM_UP_LEAST_S:
                break
            if spent >= _WARM_UP_MOST_S and len(blocks) >= SETTLED_BLOCKS:
                break
        return {
            "settled": steady,
            "runs": count,
            "first_run_s": round(first, 6),
            "seconds": round(spent, 3),
            "variation": round(variation(blocks[-SETTLED_BLOCKS:]), 4),
            "latency_s": blocks[-1],
            "warm_bytes": memory(),
        }

    def slice(self, batch: int, seconds: float) -> dict[str, Any]:
        """Latencies of one turn, in seconds, and the processor time that its runs took."""
        run = self._run_at(batch)
        _timed(run, _LEAD_IN_S)
        before, start = time.process_time(), time.perf_counter()
        found = _timed(run, seconds)
        used = {"cpu_s": time.process_time() - before, "wall_s": time.perf_counter() - start}
        _come_to_rest()
        return {"latencies_s": found, **used}

    def end(self) -> dict[str, Any]:
        """Close it."""
        peak = memory()
        if self._subject is not None:
            self._subject.runner.close()
        return {"end_bytes": peak}

    def _run_at(self, batch: int) -> Callable[[], object]:
        assert self._subject is not None, "open comes first"
        runner = self._subject.runner
        if batch not in self._feeds:
            from timmx.inputs import MADE_INPUTS, MadeSamples, feed

            preprocessor = self._subject.preprocessor
            made = MadeSamples(preprocessor.data_config, preprocessor.in_graph)
            inputs = made.take([index % MADE_INPUTS for index in range(batch)])
            (entry,) = runner.inputs
            self._feeds[batch] = {entry.name: feed(entry, inputs)}
        feeds = self._feeds[batch]
        return lambda: runner.run(feeds)


class _Collecting(Reporter):
    def __init__(self, into: list[str]) -> None:
        self._into = into

    def warn(self, text: str) -> None:
        if text not in self._into:
            self._into.append(text)


def memory() -> int | None:
    """The largest resident set of this process so far, in bytes; None where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return _memory_by_resource()
    # Not getrusage: on Linux its figure survives exec, so it may be that of the process that started this one.
    return next(
        (1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), None
    )


def _memory_by_resource() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _open_model(
    path: Path, against: str | None, model_options: Mapping[str, Any] | None, compiled: bool
) -> Subject:
    from timmx.artifact import described
    from timmx.tools.subject import open_model, request_for

    _, metadata = described(path)
    subject = open_model(request_for(metadata, against, model_options), metadata)
    if compiled:
        from timmx.tools.subject import TorchRunner

        assert isinstance(subject.runner, TorchRunner)
        subject.runner.compile()
    return subject


def _timed(run: Callable[[], object], seconds: float) -> list[float]:
    """Latencies of as many runs as fill the time, at least one."""
    found: list[float] = []
    begun = last = time.perf_counter()
    while not found or last - begun < seconds:
        run()
        now = time.perf_counter()
        found.append(now - last)
        last = now
    return found


def _come_to_rest() -> None:
    """Wait until the runtime's threads no longer spin for more work; the next case would feel them.

    ONNX Runtime 1.32's were seen to spin for 30 ms.
    """
    quiet = 0
    for _ in range(_REST_CHECKS):
        before = time.process_time()
        time.sleep(_REST_S)
        quiet = quiet + 1 if time.process_time() - before < _REST_S / 10 else 0
        if quiet == 2:  # once may be that another program had the core
            return


def _answer(worker: Worker, asked: dict[str, Any]) -> dict[str, Any]:
    ask = getattr(worker, asked.pop("do"))
    try:
        return ask(**asked)
    except TimmxError as exc:
        return {"error": exc.message, "hint": exc.hint, "type": type(exc).__name__}
    except Exception as exc:  # a runtime may raise anything
        error = f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"
        return {"error": error, "hint": "", "type": ""}


def main() -> None:
    """Answer what is asked on stdin until it ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; whoever started this ends it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    with open(os.devnull) as nothing:  # noqa: PTH123 - no file of ours
        os.dup2(nothing.fileno(), 0)
    worker = Worker()
    with reporting(_Collecting(worker.warnings)):
        for line in questions:
            answer = _answer(worker, json.loads(line))
            print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # a runtime's threads and exit handlers must not keep it alive


if __name__ == "__main__":
    main()
