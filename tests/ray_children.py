"""Children for tests of a Ray cluster, started in its workers: they report cells and export nothing."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray
from timmx.processes import Message
from timmx.sweep.task import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from timmx.sweep.plan import SweepPlan
    from timmx.sweep.task import Task

VALUES = {"status": "verified", "precision": "fp32", "snr_db": 100.0, "seconds": 1.0, "file": "a/a.onnx"}


def figures() -> dict[str, float]:
    """What plots show of a cell: different ones for each."""
    return {
        "size_bytes": int(10 ** random.uniform(5.5, 8.5)),
        "accuracy": random.uniform(0.6, 0.9),
        "latency_ms": 10 ** random.uniform(0, 3),
    }


def node_id() -> str:
    return ray.get_runtime_context().get_node_id()


class Child:
    """Reports one cell whenever it is asked.

    With a folder, it reports the first one, and the others when the file `killed` there names another node.
    """

    def __init__(self, task: Task, folder: Path | None) -> None:
        self._todo, self._folder, self._is_first = list(task.todo), folder, True

    def messages(self) -> list[Message]:
        if not self._todo or not (self._is_first or self._may_continue()):
            return []
        self._is_first = False
        return [Message(Event.ENDED, {"cell": self._todo.pop(0), **VALUES, **figures()})]

    def _may_continue(self) -> bool:
        if self._folder is None:
            return True
        killed = self._folder / "killed"
        return killed.exists() and killed.read_text() != node_id()

    def ending(self) -> str | None:
        return None if self._todo else ""

    def memory_bytes(self) -> None:
        return None

    def end(self) -> None:
        return


class Launcher:
    """Starts children, and notes for each model on which nodes, in a folder that all nodes share."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def start(self, task: Task) -> Child:
        if self._folder is not None:
            with (self._folder / task.name).open("a") as file:
                file.write(f"{node_id()}\n")
        return Child(task, self._folder)

    def wait(self, children: Sequence[Child], seconds: float) -> None:
        if self._folder is not None:
            time.sleep(0.05)


@contextmanager
def make_children(plan: SweepPlan, *, folder: Path | None = None) -> Iterator[Launcher]:
    """See `timmx.sweep.node.MakeLauncher`; to be given its options by `functools.partial`."""
    yield Launcher(folder)


@contextmanager
def lose_worker(plan: SweepPlan) -> Iterator[Launcher]:
    """End the Ray worker, as a lack of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)
    yield Launcher(None)
