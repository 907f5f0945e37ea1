"""Measures one file, or the PyTorch model, in its own process, so that memory and threads are not shared.

Run as `python -m timmx.tools.bench.worker`, it reads one JSON object per line from stdin and answers each with one on
stdout; output of libraries goes to stderr. It ends when stdin is closed, so that it never outlives its parent.
`timmx.tools.bench.process` is the other side.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timmx.base import Reporter, peak_resident_bytes, reporting
from timmx.contract import RuntimeDevice
from timmx.errors import TimmxError, one_line
from timmx.registry import skip_unreadable_entry_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from timmx.tools.subject import Subject

_BLOCK_S = 0.02
_WARM_UP_LEAST_S, _WARM_UP_MOST_S = 0.3, 3.0
"""A warm-up that has not settled after the longer time ends anyway, with a note."""
_LEAD_IN_S = 0.01
"""Untimed runs at the start of each slice, at least one: caches and cores adapt to this case."""

_REST_S, _REST_CHECKS = 0.005, 40


class Worker:
    """A file or model that is opened once, with one number of threads."""

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
        trust: bool = False,
        runtime_device: str | None = None,
    ) -> dict[str, Any]:
        """Open the file, or the model instead of it.

        Args:
            path: of the file.
            threads: number of threads that the runtime may use.
            against: name of the model, for `timmx.tools.subject.request_for`.
            model_options: its options.
            compile: compile the model with torch.compile.
            is_model: open the model, not the file.
            trust: the file may run code that it contains.
            runtime_device: where the runtime of the file computes.
        """
        start = peak_resident_bytes()
        if is_model:
            self._subject = _open_model(Path(path), against, model_options, compile)
        else:
            from timmx.tools.subject import open_subject

            self._subject = open_subject(
                Path(path),
                threads=threads,
                trust=trust,
                runtime_device=RuntimeDevice(runtime_device) if runtime_device else None,
            )
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(threads)
        runner = self._subject.runner
        return {
            "engine": runner.engine,
            "batch": runner.inputs[0].shape[0] if not is_model else "batch",
            "warnings": self.warnings,
            "start_bytes": start,
            "loaded_bytes": peak_resident_bytes(),
        }

    def warm(self, batch: int) -> dict[str, Any]:
        """Run at this batch size until the latency has settled."""
        from timmx.tools.bench.timing import SETTLED_BLOCKS, settled, variation

        run = self._run_at(batch)
        (first,) = _timed(run, 0.0)  # may compile or allocate, so it is not part of the blocks
        blocks: list[float] = []
        count = 1
        start = time.perf_counter()
        while True:
            block = _timed(run, _BLOCK_S)
            count += len(block)
            blocks.append(sorted(block)[len(block) // 2])
            elapsed = time.perf_counter() - start
            steady = settled(blocks)
            if steady and elapsed >= _WARM_UP_LEAST_S:
                break
            if elapsed >= _WARM_UP_MOST_S and len(blocks) >= SETTLED_BLOCKS:
                break
        return {
            "settled": steady,
            "runs": count,
            "first_run_s": round(first, 6),
            "seconds": round(elapsed, 3),
            "variation": round(variation(blocks[-SETTLED_BLOCKS:]), 4),
            "latency_s": blocks[-1],
            "warm_bytes": peak_resident_bytes(),
        }

    def slice(self, batch: int, seconds: float) -> dict[str, Any]:
        """Latencies of one turn, in seconds, with the processor and wall time of its runs."""
        run = self._run_at(batch)
        _timed(run, _LEAD_IN_S)
        before, start = time.process_time(), time.perf_counter()
        latencies = _timed(run, seconds)
        used = {"cpu_s": time.process_time() - before, "wall_s": time.perf_counter() - start}
        _wait_until_idle()
        return {"latencies_s": latencies, **used}

    def end(self) -> dict[str, Any]:
        """Close it."""
        peak = peak_resident_bytes()
        if self._subject is not None:
            self._subject.runner.close()
        return {"end_bytes": peak}

    def _run_at(self, batch: int) -> Callable[[], object]:
        assert self._subject is not None, "open comes first"
        runner = self._subject.runner
        if batch not in self._feeds:
            from timmx.inputs import SYNTHETIC_INPUTS, SyntheticSamples, feed

            preprocessor = self._subject.preprocessor
            samples = SyntheticSamples(preprocessor.data_config, preprocessor.in_graph)
            inputs = samples.take([index % SYNTHETIC_INPUTS for index in range(batch)])
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


def _open_model(
    path: Path, against: str | None, model_options: Mapping[str, Any] | None, compiled: bool
) -> Subject:
    from timmx.artifact import read_artifact
    from timmx.tools.subject import open_model, request_for

    _, metadata = read_artifact(path)
    subject = open_model(request_for(metadata, against, model_options), metadata)
    if compiled:
        from timmx.tools.subject import TorchRunner

        assert isinstance(subject.runner, TorchRunner)
        subject.runner.compile()
    return subject


def _timed(run: Callable[[], object], seconds: float) -> list[float]:
    """Latencies in seconds of as many runs as fill the time, at least one."""
    latencies: list[float] = []
    start = last = time.perf_counter()
    while not latencies or last - start < seconds:
        run()
        now = time.perf_counter()
        latencies.append(now - last)
        last = now
    return latencies


def _wait_until_idle() -> None:
    """Wait until the runtime's threads no longer spin for more work, which would slow down the next case.

    Threads of ONNX Runtime 1.32 were seen to spin for 30 ms.
    """
    quiet = 0
    for _ in range(_REST_CHECKS):
        before = time.process_time()
        time.sleep(_REST_S)
        quiet = quiet + 1 if time.process_time() - before < _REST_S / 10 else 0
        if quiet == 2:  # a single one may mean that another program had the core
            return


def _answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    method = getattr(worker, request.pop("do"))
    try:
        return method(**request)
    except TimmxError as exc:
        return {"error": exc.message, "hint": exc.hint, "type": type(exc).__name__}
    except Exception as exc:  # a runtime may raise anything
        return {"error": one_line(exc), "hint": "", "type": ""}


def main() -> None:
    """Answer requests on stdin until it is closed."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole process group; the parent ends this process
    skip_unreadable_entry_points()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    with open(os.devnull) as nothing:  # noqa: PTH123 - no file of ours
        os.dup2(nothing.fileno(), 0)
    worker = Worker()
    with reporting(_Collecting(worker.warnings)):
        for line in requests:
            answer = _answer(worker, json.loads(line))
            print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # not kept alive by a runtime's threads and exit handlers


if __name__ == "__main__":
    main()
