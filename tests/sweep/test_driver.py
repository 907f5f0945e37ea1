"""The driver records each cell, continues after failures, and resumes; children are scripted, nothing is exported."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from timmx.errors import ConfigurationError, TimmxError
from timmx.processes import Message
from timmx.sweep.cell import Cell, CellStatus
from timmx.sweep.choices import Keep
from timmx.sweep.driver import Driver, Limits
from timmx.sweep.journal import Journal, read_lines
from timmx.sweep.models import SweepModel
from timmx.sweep.plan import SweepPlan, make_plan
from timmx.sweep.rows import Rows
from timmx.sweep.task import Event, Task
from timmx.sweep.todo import kept_cells, tasks_of
from timmx.sweep.watching import Running, Watcher

if TYPE_CHECKING:
    from collections.abc import Sequence

OK = {"status": "verified", "precision": "fp32", "snr_db": 100.0, "size_bytes": 5, "file": "x/x.onnx"}
TARGETS = ("onnx", "torch-export", "coreml")


class Scripted:
    """A child whose messages are known when it starts, and that then ends, or hangs."""

    def __init__(self, messages: list[Message], ending: str | None = "", memory: int = 10) -> None:
        self._messages, self._ending, self._memory = messages, ending, memory
        self.is_ended = False

    def messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    def ending(self) -> str | None:
        return self._ending

    def memory_bytes(self) -> int | None:
        return self._memory

    def end(self) -> None:
        self.is_ended = True


class Launcher:
    """Starts scripted children: `behave(task, number)` returns what a cell does."""

    def __init__(self, behave=lambda task, number: "ok") -> None:
        self.behave, self.tasks, self.children = behave, [], []

    def start(self, task: Task) -> Scripted:
        self.tasks.append(task)
        messages = [Message(Event.LOADED, {"family": "f", "parameters": 1, "weights": "awakened"})]
        child = Scripted(messages)
        for number in task.todo:
            messages.append(Message(Event.STARTED, {"cell": number}))
            what = self.behave(task, number)
            if what == "ok":
                messages.append(Message(Event.ENDED, {"cell": number, "seconds": 1.0, **OK}))
            elif what == "crash":
                child._ending = "its process was killed by SIGSEGV"
                break
            elif what == "hang":
                messages.append(Message(Event.STEP, {"text": "Exporting"}))
                child._ending = None
                break
            elif what == "memory":
                child._ending, child._memory = None, 10**12
                break
        self.children.append(child)
        return child

    def wait(self, children: Sequence[Scripted], seconds: float) -> None:
        return


def plan_of(*names: str, targets: Sequence[str] = TARGETS, **values) -> SweepPlan:
    return SweepPlan(models=tuple(map(SweepModel, names)), targets=tuple(targets), **values)


def run(
    folder: Path, plan: SweepPlan, launcher: Launcher, *, retry: bool = False, **options
) -> dict[tuple, Cell]:
    with Journal(folder, resume=True) as journal:
        cells = [line for line in read_lines(journal.path) if isinstance(line, Cell)]
        tasks = tasks_of(plan, folder, kept_cells(plan, cells, retry=retry), threads=0)
        with closing(Driver(Rows(plan), launcher, **options).run(tasks)) as ended:
            for cell in ended:
                journal.add(cell)
    return {line.place: line for line in read_lines(journal.path) if isinstance(line, Cell)}


def statuses(cells: dict[tuple, Cell]) -> list[str]:
    return [cell.status.value for cell in cells.values()]


def test_every_cell_is_recorded(tmp_path):
    launcher = Launcher()
    cells = run(tmp_path, plan_of("test_vit", "test_resnet"), launcher)
    assert [(*place,) for place in cells] == [
        (model, target) for model in ("test_vit", "test_resnet") for target in TARGETS
    ]
    assert len(launcher.tasks) == 2
    first = next(iter(cells.values()))
    assert (first.family, first.weights, first.snr_db, first.backend) == ("f", "awakened", 100.0, "onnx")
    assert {"timmx-core", "timm", "torch", "onnx"} <= first.versions.keys()
    assert all(child.is_ended for child in launcher.children)


@pytest.mark.parametrize(
    ("what", "limits", "status", "message"),
    [
        ("crash", Limits(), "crashed", "SIGSEGV"),
        ("hang", Limits(seconds=0.0), "timeout", "more than 0 s (while exporting)"),
        ("memory", Limits(memory_bytes=10**9), "memory", "1,000 GB of memory, more than 1 GB"),
    ],
)
def test_the_other_formats_go_on_in_a_new_child(tmp_path, what, limits, status, message):
    launcher = Launcher(lambda task, number: what if number == 0 else "ok")
    cells = run(tmp_path, plan_of("test_vit"), launcher, limits=limits)
    failed, *others = sorted(cells.values(), key=lambda cell: TARGETS.index(cell.target))
    assert failed.status == status
    assert message in failed.message
    assert failed.command == "timmx onnx test_vit --output test_vit.onnx"
    assert [cell.status for cell in others] == ["verified", "verified"]
    assert [task.todo for task in launcher.tasks] == [(0, 1, 2), (1, 2)]


def test_a_crash_after_other_formats_is_repeated_alone(tmp_path):
    launcher = Launcher(lambda task, number: "crash" if number == 1 and len(task.todo) > 1 else "ok")
    cells = run(tmp_path, plan_of("test_vit"), launcher)
    assert set(statuses(cells)) == {"verified"}
    assert sorted(task.todo for task in launcher.tasks) == [(0, 1, 2), (1,), (2,)]


def test_a_crash_while_loading_fails_all_formats_once(tmp_path):
    class Broken(Launcher):
        def start(self, task: Task) -> Scripted:
            self.tasks.append(task)
            return Scripted([Message(Event.STEP, {"text": "Loading"})], "its process was killed by SIGABRT")

    launcher = Broken()
    cells = run(tmp_path, plan_of("test_vit"), launcher)
    assert statuses(cells) == ["crashed"] * 3
    assert len(launcher.tasks) == 1
    assert {cell.family for cell in cells.values()} == {"vision_transformer"}


def test_a_resumed_sweep_runs_only_what_is_missing(tmp_path):
    plan = plan_of("test_vit", "test_resnet")
    run(tmp_path, plan_of("test_vit"), Launcher(lambda task, number: "crash" if number == 2 else "ok"))
    resumed = Launcher()
    cells = run(tmp_path, plan, resumed)
    assert [(task.model.name, task.todo) for task in resumed.tasks] == [("test_resnet", (0, 1, 2))]
    assert len(cells) == 6
    again = Launcher()
    run(tmp_path, plan, again, retry=True)
    assert [(task.model.name, task.todo) for task in again.tasks] == [("test_vit", (2,))]
    assert set(statuses(run(tmp_path, plan, Launcher()))) == {"verified"}


def test_cells_of_other_versions_or_options_run_again(tmp_path):
    plan = plan_of("test_vit")
    with Journal(tmp_path, resume=True) as journal:
        for number, column in enumerate(plan.columns):
            cell = Cell(
                model="test_vit",
                target=column,
                backend=column,
                key=plan.keys(plan.models[0])[number],
                status=CellStatus.VERIFIED,
                file="f",
                versions=plan.versions()[number],
            )
            old = {**cell.versions, "coremltools": "8.0"}
            journal.add(replace(cell, versions=old) if column == "coreml" else cell)
    launcher = Launcher()
    run(tmp_path, plan, launcher)
    assert [task.todo for task in launcher.tasks] == [(2,)]
    launcher = Launcher()
    run(tmp_path, plan_of("test_vit", options={"normalize": True}), launcher)
    assert [task.todo for task in launcher.tasks] == [(0, 1, 2)]


def test_failures_of_the_disk_or_the_network_run_again(tmp_path):
    plan = plan_of("test_vit", targets=["onnx"])
    for kind, runs_again in (("ArtifactError", True), ("ModelError", True), ("UnsupportedError", False)):
        cell = Cell(
            model="test_vit",
            target="onnx",
            backend="onnx",
            key=plan.keys(plan.models[0])[0],
            status=CellStatus.REFUSED,
            kind=kind,
            versions=plan.versions()[0],
        )
        assert bool(kept_cells(plan, [cell])) is not runs_again


def test_files_that_were_not_kept_are_exported_again_if_they_are_wanted():
    plan = plan_of("test_vit", targets=["onnx"])
    cell = Cell(
        model="test_vit",
        target="onnx",
        backend="onnx",
        key=plan.keys(plan.models[0])[0],
        status=CellStatus.VERIFIED,
        versions=plan.versions()[0],
    )
    assert not kept_cells(plan, [cell])
    assert kept_cells(replace(plan, keep=Keep.NONE), [cell])


def test_a_changed_checkpoint_runs_again(tmp_path):
    weights = tmp_path / "resnet18.safetensors"
    weights.write_bytes(b"one")
    model = SweepModel("resnet18", weights)
    plan = SweepPlan(models=(model,), targets=("onnx",), options={"pretrained": True})
    before = plan.keys(model)
    weights.write_bytes(b"three")
    assert plan.keys(model) != before
    assert plan.options_of(model) == {"checkpoint": weights}


def test_ctrl_c_ends_the_children_and_keeps_the_finished_cells(tmp_path):
    class Pressed(Watcher):
        def running(self, models: Sequence[Running]) -> None:
            if [model.model for model in models] == ["test_resnet"]:
                raise KeyboardInterrupt

    class Slow(Launcher):
        """The children of one model report a cell and hang."""

        def start(self, task: Task) -> Scripted:
            child = super().start(task)
            if task.model.name == "test_resnet":
                del child._messages[3:]
                child._ending = None
            return child

    launcher = Slow()
    plan = plan_of("test_vit", "test_resnet", "test_byobnet")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, plan, launcher, watcher=Pressed())
    assert all(child.is_ended for child in launcher.children)
    launcher = Launcher()
    assert len(run(tmp_path, plan, launcher)) == 9
    assert [task.todo for task in launcher.tasks] == [(1, 2), (0, 1, 2)]


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (["onnx", "onnx"], {}, "--to onnx is given twice"),
        (["onxx"], {}, "'onxx' is not installed"),
        (["litert:dynamic-batch"], {}, "does not support --dynamic-batch"),
        (["onnx:opset=x"], {}, "opset=x is not an integer"),
        ([], {}, "no target is given"),
        (["onnx"], {"checkpoint": Path("x.pth")}, "--checkpoint applies to one export"),
        (["onnx"], {"awaken": True, "pretrained": True}, "--awaken is for untrained weights"),
        (["onnx"], {"input_sise": 3}, "no option 'input_sise'"),
    ],
)
def test_bad_targets_and_options_are_refused(tmp_path, targets, options, message):
    with pytest.raises(TimmxError, match=message):
        make_plan([SweepModel("test_vit")], targets, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_a_further_file_that_each_model_would_write_is_refused(fake, tmp_path):
    models = [SweepModel("test_resnet"), SweepModel("test_vit")]
    targets = [f"fake:also={tmp_path / 'kept.onnx'}"]
    make_plan(models[:1], targets, tmp_path / "out", options={})
    with pytest.raises(ConfigurationError, match=r"kept.onnx, which would be written with .*test_vit.fake"):
        make_plan(models, targets, tmp_path / "out", options={})
    with pytest.raises(ConfigurationError, match=r"test_resnet-slow.fake"):
        make_plan(models[:1], [*targets, f"{targets[0]},do=slow"], tmp_path / "out", options={})


def test_accuracy_needs_data_and_trained_weights(tmp_path):
    models, targets = [SweepModel("test_vit")], ["onnx"]
    with pytest.raises(ConfigurationError, match="does not exist"):
        make_plan(models, targets, tmp_path, options={}, data=tmp_path / "none")
    with pytest.raises(ConfigurationError, match="means nothing for random weights"):
        make_plan(models, targets, tmp_path, options={"awaken": True}, data=tmp_path)


def test_a_plan_is_read_back_from_json(tmp_path):
    plan = SweepPlan(
        models=(SweepModel("test_vit"), SweepModel("resnet18", tmp_path / "a.pth")),
        targets=("onnx", {"format": "litert", "mode": "int8"}),
        options={"normalize": True, "mean": (0.5, 0.5, 0.5)},
        data=tmp_path,
        keep=Keep.ALL,
    )
    content = json.loads(json.dumps(plan.to_json()))
    assert SweepPlan.from_json(content).to_json() == content
    assert SweepPlan.from_json(content).keys(plan.models[1]) == plan.keys(plan.models[1])
    with pytest.raises(ConfigurationError, match="damaged"):
        SweepPlan.from_json({"models": 3})


def test_the_driver_handles_many_cells_in_little_memory(tmp_path):
    """300 models here; benchmarks/sweep.py has 20,000."""
    run_cells(1, tmp_path / "imports")  # what the first cell of a process imports is not counted
    tracemalloc.start()
    try:
        journal = run_cells(300, tmp_path / "counted")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(1 for _ in read_lines(journal)) == 900
    assert peak < 2_000_000


def run_cells(models: int, folder: Path) -> Path:
    """The journal of a sweep of ``models`` models whose cells have no work."""
    plan = SweepPlan(
        models=tuple(SweepModel(f"hf-hub:owner/{number}") for number in range(models)), targets=TARGETS
    )
    launcher = Launcher()
    launcher.tasks = launcher.children = Forgetful()
    folder.mkdir()
    with Journal(folder, resume=False) as journal:
        for cell in Driver(Rows(plan), launcher, jobs=4).run(tasks_of(plan, folder, (), threads=0)):
            journal.add(cell)
    return journal.path


class Forgetful(list):
    def append(self, item: object) -> None:
        return
