"""What a Ray task does on its node: runs the cells of one model in child processes, and yields each.

A Ray worker has threads, so it is not forked. Its children are forked from multiprocessing's fork server, which it
starts by exec; the next tasks of the worker use the same server.
"""

from __future__ import annotations

import json
import platform
from collections import deque
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from timmx.errors import TimmxError
from timmx.processes import ProcessLauncher
from timmx.sweep.driver import Driver, Launcher, Limits
from timmx.sweep.plan import SweepPlan
from timmx.sweep.rows import Rows
from timmx.sweep.storage import Storage
from timmx.sweep.worker import run_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from timmx.sweep.cell import Cell
    from timmx.sweep.task import Task

MakeLauncher: TypeAlias = "Callable[[SweepPlan], AbstractContextManager[Launcher]]"


def make_launcher(plan: SweepPlan) -> ProcessLauncher:
    """Starts the children of a plan's tasks."""
    return ProcessLauncher(run_task, plan.preload())


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all tasks of a sweep have in common.

    Attributes:
        plan: the plan, without its models.
        versions: of the process that submits the tasks; see `SweepPlan.versions`.
        place: folder or fsspec URL where the nodes store files; empty if they store none.
        marker: name of a file there, by which a node knows that it sees the same place.
        limits: of each cell.
        make_launcher: makes what starts children, in the worker.
    """

    plan: SweepPlan
    versions: tuple[Mapping[str, str], ...]
    place: str = ""
    marker: str = ""
    limits: Limits
    make_launcher: MakeLauncher = make_launcher


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        name: its host name.
        problem: why it cannot run the sweep; empty if it can.
        hint: how to fix that.
    """

    name: str
    problem: str = ""
    hint: str = ""


def check_node(setup: Setup) -> Node:
    """This node, and whether it has the same versions and sees the place of the files."""
    name = platform.node()
    try:
        rows = _rows_of(setup.plan)
    except TimmxError as exc:
        return Node(name, exc.message, exc.hint)
    for ours, theirs in zip(rows.versions, setup.versions, strict=True):
        for distribution in sorted(ours.keys() | theirs.keys()):
            here, there = ours.get(distribution), theirs.get(distribution)
            if here != there:
                return Node(
                    name,
                    f"it has {_version(distribution, here)}, and the machine that runs timmx sweep has "
                    f"{_version(distribution, there)}",
                    "install the same versions on all nodes",
                )
    if not setup.place:
        return Node(name)
    try:
        is_shared = Storage(setup.place).exists(setup.marker)
    except TimmxError as exc:
        return Node(name, exc.message, exc.hint)
    if is_shared:
        return Node(name)
    return Node(
        name,
        f"it does not see the same {setup.place} as the machine that runs timmx sweep",
        "choose an output folder that all nodes share, or a --storage URL that all nodes reach",
    )


def _rows_of(plan: SweepPlan) -> Rows:
    """The rows of a plan; kept in this worker, because reading the versions takes 0.15 s."""
    return _rows(json.dumps(plan.to_json(), sort_keys=True))


@lru_cache(maxsize=1)
def _rows(plan: str) -> Rows:
    return Rows(SweepPlan.from_json(json.loads(plan)))


def _version(distribution: str, version: str | None) -> str:
    return f"{distribution} {version}" if version else f"no {distribution}"


def run_on_node(setup: Setup, task: Task) -> Iterator[Node | Cell]:
    """Run a task; yields the node, and then one cell for each number of `Task.todo`, in that order.

    When Ray repeats a task after a node was lost, it leaves out as many values as it has received: so their order and
    number must not change.
    """
    node = check_node(setup)
    yield node
    if node.problem:
        return
    rows = _rows_of(setup.plan)
    expected = deque(rows.columns[number] for number in task.todo)
    ended: dict[str, Cell] = {}
    with setup.make_launcher(setup.plan) as launcher:
        cells = Driver(rows, launcher, limits=setup.limits).run([task])
        with closing(cells):
            for cell in cells:
                ended[cell.target] = replace(cell, node=node.name)
                while expected and expected[0] in ended:
                    yield ended.pop(expected.popleft())
