"""What the child processes of a parallel export do: one loads and captures the model, and forks one per part.

Measured on 2 cores, processor seconds to hand over the capture to one process: by a fork 0.02 (resnet18) and 0.04
(vit_small_patch16_224), whatever its size, and the weights are in memory once; by `torch.export.save` and `load` 0.67
and 2.67, and the model and its reference outputs must follow. The files are equal, byte for byte, either way. So
children are forked, and where that is not safe, each loads the model itself.
"""

from __future__ import annotations

import contextvars
import gc
import os
import pickle
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from timmx.artifact import staging
from timmx.base import (
    Reporter,
    available_bytes,
    peak_resident_bytes,
    reporter,
    reporting,
    reset_peak,
    usable_cores,
)
from timmx.errors import PluginError, TimmxError, system_error
from timmx.exporting.pipeline import export_session
from timmx.exporting.validation import calibration_data
from timmx.processes import WAITING_THREADS, ProcessLauncher, StartMethod, is_safe_to_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from timmx.exporting.pipeline import ExportResult
    from timmx.exporting.session import ModelSession
    from timmx.exporting.targets import Target
    from timmx.processes import Child

    Send = Callable[[str, Mapping[str, Any]], None]

_TICK_S = 1.0

_BYTES_PER_PROCESS = 800 * 10**6
"""What a process needs in addition to what it shares with the others: a converter, and what it makes."""

_COPIES = 6
"""How often the weights are in memory of one process, at most, while they are converted."""


class Event(StrEnum):
    """What the children report.

    LOADED: the model is loaded and captured: `seconds` per step; `memory_bytes`, the peak; and `jobs`, how many
        processes will run at once.
    BROKEN: the model cannot be loaded or prepared: `error`.
    STEP, ADVANCE, DETAIL, WARN: calls of a `Reporter`: `arguments`; with `target`, the number of the running target.
    STARTED: a target has started: `target`.
    ENDED: a target has ended: `target`, and `result` or `error`; `grown_bytes`, the memory that `process` has taken
        in addition to what it shares.
    """

    LOADED = "loaded"
    BROKEN = "broken"
    STEP = "step"
    ADVANCE = "advance"
    DETAIL = "detail"
    WARN = "warn"
    STARTED = "started"
    ENDED = "ended"


class ProcessCrash(Exception):  # noqa: N818 - its name is the `type` of the error in JSON
    """A child process has ended without a result."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """All targets of an export.

    Attributes:
        targets: with a model that they share.
        jobs: number of processes at once; None to decide by cores and memory.
        shows_output: leave the output of libraries as it is.
        forks: whether to load the model once and fork; otherwise each process loads it.
    """

    targets: tuple[Target, ...]
    jobs: int | None
    shows_output: bool = False
    forks: bool = True


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one process exports, one after another.

    Attributes:
        targets: by number.
        threads: number of CPU threads to use.
        session: the loaded model; None to load it.
    """

    targets: Mapping[int, Target]
    threads: int
    session: ModelSession | None = None


def run_work(work: Work, send: Send) -> None:
    """Load and capture the model, then convert it in children; the body of the first process."""
    session = None
    if work.forks:
        outcome = _in_a_thread(lambda: _open(work, send))
        if isinstance(outcome, Exception):
            send(Event.BROKEN, {"error": portable(system_error(outcome))})
            return
        session = outcome
    jobs = work.jobs or jobs_for(work.targets, _weight_bytes(session))
    seconds = session.seconds if session else {}
    forks = session is not None and is_safe_to_fork(WAITING_THREADS)
    send(Event.LOADED, {"seconds": seconds, "memory_bytes": peak_resident_bytes(), "jobs": jobs})
    gc.freeze()  # a collection in a child would copy the pages that it shares
    threads = max(1, usable_cores() // jobs)
    parts = [
        Part(targets=targets, threads=threads, session=session if forks else None)
        for targets in parts_of(work.targets, jobs)
    ]
    method = StartMethod.FORK if forks else StartMethod.SPAWN
    with ProcessLauncher(run_part, method=method, shows_output=work.shows_output) as launcher:
        _run_parts(launcher, parts, jobs, send)


def jobs_for(targets: Sequence[Target], weight_bytes: int) -> int:
    """How many processes may run at once: at most one per target and core, and as many as fit into memory."""
    available = available_bytes()
    most = min(len(targets), usable_cores())
    if available is not None:
        most = min(most, available // (_BYTES_PER_PROCESS + _COPIES * weight_bytes))
    return max(1, most)


def parts_of(targets: Sequence[Target], jobs: int) -> list[dict[int, Target]]:
    """The targets of each process.

    Targets of one format share a converter, and what it computes for all of them. So they stay together if there is
    work for all processes anyway.
    """
    by_format: dict[str, dict[int, Target]] = {}
    for number, target in enumerate(targets):
        by_format.setdefault(target.backend.name, {})[number] = target
    if len(by_format) >= jobs:
        return list(by_format.values())
    return [{number: target} for number, target in enumerate(targets)]


def _open(work: Work, send: Send) -> ModelSession | Exception:
    """A session with the captures that several processes need."""
    from timmx.exporting.session import ModelSession

    bars: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if bars is not None:
        bars.monitor_interval = (
            0  # otherwise the first bar starts a thread, and this process would not be forked
        )
    with reporting(_Sending(send)):
        try:
            session = ModelSession(
                replace(work.targets[0].request, output=None),
                calibration_data=calibration_data(target.options for target in work.targets),
            )
            session.prepare()
        except Exception as exc:  # a model may raise anything
            return exc
        shapes: dict[Any, list[Target]] = {}
        for target in work.targets:
            shapes.setdefault((target.request.dynamic_batch, target.request.trace_batch), []).append(target)
        for same in shapes.values():
            if len(same) > 1:
                try:
                    view = session.with_batch(same[0].request)
                    view.capture()
                except TimmxError:  # each target that needs it reports the error
                    continue
                for step, seconds in view.seconds.items():
                    session.seconds[step] = round(session.seconds.get(step, 0.0) + seconds, 3)
        return session


def _in_a_thread(compute: Callable[[], Any]) -> Any:
    """Compute in a thread: what it leaves of OpenMP ends with it, so that this process can be forked."""
    values: list[Any] = []
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: values.append(context.run(compute)))
    thread.start()
    thread.join()
    return values[0] if values else ProcessCrash("the process was ended")


def _weight_bytes(session: ModelSession | None) -> int:
    if session is None:
        return 0
    return sum(tensor.nbytes for tensor in session.module.state_dict().values())


@dataclass
class _Running:
    """A child and the targets that it has not ended."""

    part: Part
    child: Child
    todo: list[int]
    current: int | None = None

    def take(self, event: str, values: Mapping[str, Any]) -> None:
        if event == Event.STARTED:
            self.current = values["target"]
        elif event == Event.ENDED:
            self.todo.remove(values["target"])
            self.current = None
        elif event == Event.BROKEN:
            self.todo.clear()


def _run_parts(launcher: ProcessLauncher, parts: Sequence[Part], jobs: int, send: Send) -> None:
    """Run each part in a child, and pass on what they report. A crash fails the target that was running."""
    waiting = deque(parts)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                part = waiting.popleft()
                running.append(_Running(part, launcher.start(part), list(part.targets)))
            launcher.wait([item.child for item in running], _TICK_S)
            for item in tuple(running):
                reason = item.child.ending()
                for event, values in item.child.messages():
                    item.take(event, values)
                    send(event, values)
                if reason is None:
                    continue
                item.child.end()
                running.remove(item)
                if item.todo:
                    number = item.todo[0] if item.current is None else item.current
                    error = ProcessCrash(reason or "its process ended without a result")
                    send(Event.ENDED, {"target": number, "error": portable(error)})
                    rest = {n: item.part.targets[n] for n in item.todo if n != number}
                    if rest:
                        waiting.append(replace(item.part, targets=rest))
    finally:
        for item in running:
            item.child.end()


def run_part(part: Part, send: Send) -> None:
    """Export targets one after another; the body of the other processes."""
    import torch

    torch.set_num_threads(part.threads)
    reset_peak()
    before = (peak_resident_bytes() or 0) if part.session else 0
    session = part.session
    if session is None:
        from timmx.exporting.session import ModelSession

        with reporting(_Sending(send)):
            try:
                session = ModelSession(
                    replace(next(iter(part.targets.values())).request, output=None),
                    calibration_data=calibration_data(target.options for target in part.targets.values()),
                )
                session.prepare()
            except Exception as exc:  # a model may raise anything
                send(Event.BROKEN, {"error": portable(system_error(exc))})
                return
    for number, target in part.targets.items():
        send(Event.STARTED, {"target": number})
        with reporting(_Sending(send, number)):
            try:
                outcome: dict[str, Any] = {"result": export_target(session, target, part.threads)}
            except Exception as exc:  # a converter may raise anything
                outcome = {"error": portable(exc)}
        memory = {"process": os.getpid(), "grown_bytes": (peak_resident_bytes() or 0) - before}
        send(Event.ENDED, {"target": number, **outcome, **memory})


def export_target(session: ModelSession, target: Target, threads: int | None = None) -> ExportResult:
    """Export one target of a loaded model.

    Args:
        session: the model.
        target: the target.
        threads: number of CPU threads for the runtime that verifies the file; None lets the runtime choose.
    """
    start = time.perf_counter()
    with staging(target.path) as stage:
        view = session.with_batch(target.request)
        result = export_session(target.backend, view, target.options, stage, threads=threads)
    result.seconds["total"] = round(time.perf_counter() - start, 3)
    return result


@dataclass
class _Sending(Reporter):
    """Sends progress to the parent."""

    send: Send
    target: int | None = None
    shows_output: bool = field(default=False)

    def step(self, text: str) -> None:
        self._pass_on(Event.STEP, text)

    def advance(self, text: str, share: float) -> None:
        self._pass_on(Event.ADVANCE, text, share)

    def detail(self, text: str) -> None:
        self._pass_on(Event.DETAIL, text)

    def warn(self, text: str) -> None:
        self._pass_on(Event.WARN, text)

    def _pass_on(self, event: Event, *arguments: Any) -> None:
        self.send(event, {"target": self.target, "arguments": arguments})


def pass_to_reporter(event: str, arguments: Sequence[Any]) -> None:
    """Call this process's reporter as the child has called its own."""
    to = reporter()
    calls: dict[str, Callable[..., None]] = {
        Event.STEP: to.step,
        Event.ADVANCE: to.advance,
        Event.DETAIL: to.detail,
        Event.WARN: to.warn,
    }
    calls[event](*arguments)


@dataclass(frozen=True)
class PortableError:
    """An exception of another process.

    Attributes:
        kind: the name of its type.
        text: its text.
        trace: its traceback as text.
        pickled: the exception itself if it is one of timmx's; otherwise its type may be unknown here.
    """

    kind: str
    text: str
    trace: str
    pickled: bytes = b""

    def restore(self) -> Exception:
        """The exception, caused by its traceback in the other process."""
        error: Exception
        if self.pickled:
            error = pickle.loads(self.pickled)
        elif self.kind == ProcessCrash.__name__:
            return ProcessCrash(self.text)  # its traceback would be of timmx, not of the crash
        elif self.kind == PluginError.__name__:
            error = PluginError.__new__(PluginError, self.text)
        else:
            error = type(self.kind, (Exception,), {})(self.text)
        error.__cause__ = _OtherTraceback(f"\n{self.trace}")
        return error


class _OtherTraceback(Exception):  # noqa: N818 - never raised
    """The traceback of an exception in another process."""


def portable(exc: Exception) -> PortableError:
    """An exception that can be sent to another process."""
    pickled = b""
    if isinstance(exc, TimmxError):
        try:
            pickled = pickle.dumps(exc)
            pickle.loads(pickled)
        except Exception:  # a plugin's class, with other arguments
            pickled = b""
    trace = "".join(traceback.format_exception(exc))
    return PortableError(type(exc).__name__, str(exc), trace, pickled)
