"""Runs a sweep on a Ray cluster: one Ray task per model, whose cells stream back to this process.

Ray places the tasks, repeats those of lost nodes, and transports their results.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from timmx.base import counted, reporter, size_text
from timmx.errors import ConfigurationError
from timmx.sweep.cell import CellStatus
from timmx.sweep.node import Node, check_node, run_on_node
from timmx.sweep.rows import Rows
from timmx.sweep.watching import Running, Watcher
from timmx.sweep.worker import failure

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from timmx.sweep.cell import Cell
    from timmx.sweep.node import Setup
    from timmx.sweep.plan import SweepPlan
    from timmx.sweep.task import Task

_CHECK_S = 60.0
"""How long a node may take to start the worker that checks it."""

_TICK_S = 0.25
_RETRIES = 3
"""How often Ray repeats a task whose node or worker is lost."""

_SUBMITTED = 1000
"""Maximum number of tasks that Ray has at a time: enough for its autoscaler to see the demand."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray cluster, and what each model needs there.

    Attributes:
        address: `HOST:PORT` of its head node, or `auto` for the one that this machine belongs to.
        cpus: number of CPUs that Ray reserves for each model.
        gpus: number of GPUs, which may be a fraction.
    """

    address: str
    cpus: int = 1
    gpus: float = 0.0


@dataclass(kw_only=True)
class _Submitted:
    """A task that Ray has.

    Attributes:
        task: the task.
        todo: numbers of the cells that have not come back.
        node: where it runs; empty if it has not started.
        since: when it last reported; of `time.monotonic`.
    """

    task: Task
    todo: deque[int] = field(default_factory=deque)
    node: str = ""
    since: float = 0.0


class ClusterDriver:
    """Runs tasks of a plan on the cluster that this process is connected to.

    Args:
        plan: the plan.
        setup: what the tasks have in common.
        cluster: what each task needs.
        jobs: maximum number of models that are exported at once; None for as many as the cluster has room for.
        watcher: is called with what is running.

    Raises:
        ConfigurationError: a node has other versions than this machine, or does not see where files are stored.
    """

    def __init__(
        self,
        plan: SweepPlan,
        setup: Setup,
        cluster: Cluster,
        *,
        jobs: int | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        import ray

        self._plan, self._rows, self._setup = plan, Rows(plan), setup
        self._most = jobs or _SUBMITTED
        self._watcher = watcher or Watcher()
        needs = {"CPU": cluster.cpus, "GPU": cluster.gpus, "memory": setup.limits.memory_bytes}
        self._needs = {name: value for name, value in needs.items() if value}
        self._run = ray.remote(run_on_node).options(
            num_returns="streaming",
            max_retries=_RETRIES,
            num_cpus=cluster.cpus,
            num_gpus=self._needs.get("GPU"),
            memory=self._needs.get("memory"),
        )
        self._check_nodes()

    def run(self, tasks: Iterable[Task]) -> Generator[Cell]:
        """Run all cells of tasks; each cell is yielded once, when it has come back.

        Close the iterator if it is not exhausted, which cancels the tasks.

        Raises:
            ConfigurationError: a node that joined later has other versions, or does not see where files are stored.
        """
        import ray

        ahead, submitted = iter(tasks), dict[Any, _Submitted]()
        try:
            while True:
                while len(submitted) < self._most and (task := next(ahead, None)) is not None:
                    submitted[self._run.remote(self._setup, task)] = _Submitted(
                        task=task, todo=deque(task.todo)
                    )
                if not submitted:
                    return
                streams = list(submitted)
                ready, _ = ray.wait(streams, timeout=_TICK_S)
                if ready:
                    ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
                for stream in ready:
                    item = submitted[stream]
                    yield from self._receive(stream, item)
                    if not item.todo:
                        del submitted[stream]
                self._watcher.running([self._shown(item) for item in submitted.values() if item.node])
        finally:
            for stream in submitted:
                ray.cancel(stream, force=True)

    def _receive(self, stream: Any, item: _Submitted) -> Iterator[Cell]:
        """The next value of a task, or what stands for the rest if Ray has given it up."""
        import ray

        try:
            value: Node | Cell = ray.get(next(stream))
        except StopIteration:
            # Ray repeated the task on a node that refuses it, and drops that answer: the task had answered before.
            yield from self._lost(
                item,
                "its node or worker was lost, and the node that repeated it cannot run the sweep",
                "check that all nodes see the output folder and have the same versions, then add --resume",
            )
            return
        except ray.exceptions.RayTaskError as exc:
            yield from self._rest(item, failure(exc.cause))
            return
        except ray.exceptions.RayError as exc:
            yield from self._lost(
                item,
                f"its node or worker was lost {counted(_RETRIES + 1, 'time')}: {_first_line(exc)}",
                "look at the nodes with ray status, and run the same command with --resume",
            )
            return
        item.since = time.monotonic()
        if isinstance(value, Node):
            _refuse(value)
            item.node = value.name
            return
        number = item.todo.popleft()
        # the key of this machine: a node may see other times of a model's files
        yield replace(value, key=self._plan.keys(item.task.model)[number])

    def _lost(self, item: _Submitted, message: str, hint: str) -> Iterator[Cell]:
        facts = {"status": CellStatus.CRASHED, "kind": "LostNode", "message": message, "hint": hint}
        return self._rest(item, facts)

    def _rest(self, item: _Submitted, values: Mapping[str, Any]) -> Iterator[Cell]:
        model = item.task.model
        while item.todo:
            yield self._rows.cell(model, item.todo.popleft(), {"family": self._rows.family(model), **values})

    def _shown(self, item: _Submitted) -> Running:
        return Running(
            model=item.task.model.label,
            target=self._rows.columns[item.todo[0]],
            step=f"on {item.node}",
            seconds=time.monotonic() - item.since,
        )

    def _check_nodes(self) -> None:
        """Check each node that has what a task needs."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [
            node
            for node in ray.nodes()
            if node["Alive"]
            and all(node["Resources"].get(name, 0) >= value for name, value in self._needs.items())
        ]
        if not nodes:
            parts = [
                f"{size_text(int(value))} of memory" if name == "memory" else f"{value:g} {name}s"
                for name, value in self._needs.items()
            ]
            reporter().warn(f"no node of the cluster has {' and '.join(parts)}: Ray waits until one joins")
        check = ray.remote(check_node)
        answers = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers.append(check.options(num_cpus=0, scheduling_strategy=there).remote(self._setup))
        for node, answer in zip(nodes, answers, strict=True):
            try:
                _refuse(ray.get(answer, timeout=_CHECK_S))
            except ray.exceptions.RayTaskError as exc:
                raise ConfigurationError(
                    f"node {node['NodeManagerHostname']} cannot run timmx: {_first_line(exc.cause)}",
                    hint="install timmx-core and the backends in the Python environment of Ray on all nodes",
                ) from exc
            except ray.exceptions.RayError as exc:  # lost meanwhile; each task checks its node again
                reporter().warn(f"node {node['NodeManagerHostname']} was not checked: {_first_line(exc)}")


def _refuse(node: Node) -> None:
    if node.problem:
        raise ConfigurationError(f"node {node.name} cannot run the sweep: {node.problem}", hint=node.hint)


def _first_line(exc: Exception) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__
