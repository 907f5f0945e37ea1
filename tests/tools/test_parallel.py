"""`timmx export --jobs`: formats exported at the same time, in child processes that share the loaded model."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pytest
import timmx
from plugins import timmx as run_command
from timmx.base import Reporter, available_bytes, reporting
from timmx.cli.terminal import TerminalReporter
from timmx.contract import Device
from timmx.errors import (
    BackendError,
    ConfigurationError,
    ModelError,
    PluginError,
    VerificationError,
    error_dict,
)
from timmx.exporting import parallel, parts
from timmx.exporting.parallel import check_jobs, export_in_parallel
from timmx.exporting.parts import ProcessCrash, jobs_for, parts_of, portable
from timmx.exporting.several import plan_exports
from timmx.processes import StartMethod
from timmx.registry import load


def planned(folder: Path, *targets: str, **options):
    return plan_exports("test_resnet", targets, folder, **options)


def test_targets_of_one_format_share_a_process_if_there_is_work_for_all(tmp_path):
    targets = planned(tmp_path, "onnx", "torch-export", "onnx:mode=fp16", "torch-export:batch-size=2")
    assert [list(part) for part in parts_of(targets, 2)] == [[0, 2], [1, 3]]
    assert [list(part) for part in parts_of(targets, 3)] == [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("cores", "free", "weights", "jobs"),
    [(16, 10**12, 0, 3), (2, 10**12, 0, 2), (16, 10**10, 10**9, 1), (16, 2 * 10**9, 10**7, 2), (16, 0, 0, 1)],
)
def test_the_default_number_of_jobs_fits_cores_and_memory(tmp_path, monkeypatch, cores, free, weights, jobs):
    targets = planned(tmp_path, "onnx", "torch-export", "torch-export:batch-size=2")
    monkeypatch.setattr(parts, "usable_cores", lambda: cores)
    monkeypatch.setattr(parts, "available_bytes", lambda: free)
    assert jobs_for(targets, weights) == jobs


def test_available_memory_is_part_of_the_memory_of_the_machine():
    assert 0 < available_bytes() < 2**50


def test_jobs_that_are_not_possible_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 8)
    targets = planned(tmp_path, "onnx", "torch-export")
    assert check_jobs(targets, None) is None
    assert check_jobs(targets, 1) == 1
    assert check_jobs(targets, 7) == 2
    assert check_jobs(targets[:1], 7) == check_jobs(targets[:1], None) == 1
    with pytest.raises(ConfigurationError, match="--jobs 0 is less than 1"):
        check_jobs(targets, 0)
    object.__setattr__(targets[0].request, "device", Device.CUDA)
    assert check_jobs(targets, None) == 1
    with pytest.raises(ConfigurationError, match="a GPU is used by one process only"):
        check_jobs(targets, 2)


def test_a_backend_is_the_same_in_another_process():
    backend = pickle.loads(pickle.dumps(load("onnx")))
    assert type(backend).__qualname__ == type(load("onnx")).__qualname__
    assert backend.name == "onnx"


@pytest.mark.parametrize(
    "error",
    [
        BackendError("it is broken", hint="reinstall it", state="broken", reason="why"),
        VerificationError("too much noise", None, hint="try another precision"),
        PluginError("fake (timmx-fake 1.2.3)", "export raised ValueError: no"),
        ValueError("not a graph"),
        type("Strange", (Exception,), {"__init__": lambda self, a, b: None})(1, 2),
    ],
)
def test_an_error_of_another_process_reads_the_same(error):
    restored = pickle.loads(pickle.dumps(portable(error))).restore()
    assert error_dict(restored) == error_dict(error)
    assert isinstance(error, timmx.TimmxError) == isinstance(restored, timmx.TimmxError)
    assert type(error).__name__ in str(restored.__cause__)


def test_steps_of_rows_that_run_at_once_name_their_row():
    stream = io.StringIO()
    reporter = TerminalReporter(stream, verbose=True)
    reporter.rows(["a", "b"])
    for name in "ab":
        reporter.row(name)
    for name in "ab":
        reporter.select_row(name)
        reporter.step("Exporting")
    reporter.warn("slow")
    reporter.row_done("done in 1.0 s")
    lines = ["[a]", "[b]", "[a: Exporting]", "[b: Exporting]", "warning: b: slow", "[b: done in 1.0 s]"]
    assert stream.getvalue().splitlines() == lines


@pytest.mark.usefixtures("process", "export")
def test_a_failure_or_a_crash_of_one_format_leaves_the_others(fake, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "test_resnet-crash.fake").write_text("old")
    todo = ["crash", "refuse", "raise", "wrong", "ok"]
    targets = [f"fake:do={do}" for do in todo]
    result = timmx.export_many("test_resnet", targets, out, awaken=True, jobs=2)
    errors = [failure.error for failure in result.failures]
    assert [failure.name.partition("-")[2] for failure in result.failures] == [
        f"{do}.fake" for do in todo[:-1]
    ]
    crash, refuse, other, wrong = errors
    assert isinstance(crash, ProcessCrash)
    assert "killed by SIGSEGV" in str(crash)
    assert (refuse.message, refuse.hint) == ("this format has no operation 17", "use another format")
    assert "ValueError: not a graph" in str(other)
    assert wrong.report.floor_db == 60
    assert result.exit_code == 1
    (ok,) = result.results
    assert ok.path.name == "test_resnet.fake"
    assert (result.jobs, result.memory_bytes > 10**8) == (2, True)
    assert {"loading", "running the reference", "preparing", "total"} <= result.seconds.keys()
    assert sorted(path.name for path in out.iterdir()) == [
        "test_resnet-crash.fake",
        "test_resnet.fake",
        "timmx.json",
    ]
    assert (out / "test_resnet-crash.fake").read_text() == "old"
    assert list(json.loads(result.manifest.read_text())["artifacts"]) == ["test_resnet.fake"]


@pytest.mark.usefixtures("process", "export")
def test_files_are_equal_with_and_without_jobs(exported_digits, digits, tmp_path):
    result = timmx.export_many(digits, ["onnx", "torch-export"], tmp_path, jobs=2)
    assert [item.path.name for item in result.results] == ["digits.onnx", "digits.pt2"]
    assert "capturing" in result.seconds
    for item in result.results:
        single = exported_digits(item.backend)
        assert item.path.read_bytes() == single.read_bytes()
        report = json.loads((single.parent / "verification.json").read_text())
        assert item.verification.to_dict()["snr_db"] == pytest.approx(report["snr_db"], abs=1)
    assert list(json.loads(result.manifest.read_text())["artifacts"]) == ["digits.onnx", "digits.pt2"]


@pytest.mark.usefixtures("process", "export")
def test_a_model_that_does_not_load_is_one_error(fake, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"architecture": "test_resnet"}')
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="broken"):
        timmx.export_many(f"local-dir:{broken}", ["fake", "fake:do=refuse"], tmp_path / "out", jobs=2)
    assert not (tmp_path / "out").exists()


class Interrupting(Reporter):
    """Presses Ctrl-C when the second target has started."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def row(self, name: str) -> None:
        self.started.append(name)
        if len(self.started) == 2:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("process", "export")
def test_an_interrupt_ends_all_children_and_leaves_what_was_there(fake, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "test_resnet-hang.fake").write_text("old")
    started = []
    start = parallel.ProcessLauncher.start
    monkeypatch.setattr(
        parallel.ProcessLauncher,
        "start",
        lambda self, task: started.append(start(self, task)) or started[-1],
    )
    with reporting(Interrupting()), pytest.raises(KeyboardInterrupt):
        timmx.export_many("test_resnet", ["fake:do=hang", "fake:do=slow"], out, awaken=True, jobs=2)
    (first,) = started
    assert first.memory_bytes() is None
    assert [path.name for path in out.iterdir()] == ["test_resnet-hang.fake"]
    assert (out / "test_resnet-hang.fake").read_text() == "old"


@pytest.mark.slow
@pytest.mark.usefixtures("process", "export")
def test_spawned_children_load_the_model_themselves(fake, tmp_path):
    """As on macOS and Windows."""
    outcomes = {}
    targets = planned(tmp_path / "out", "fake", "fake:do=crash", awaken=True)
    shared = export_in_parallel(
        targets, 2, lambda target, outcome: outcomes.update({target.label: outcome}), StartMethod.SPAWN
    )
    assert isinstance(outcomes["test_resnet-crash.fake"], ProcessCrash)
    assert outcomes["test_resnet.fake"].path.exists()
    assert shared.jobs == 2


@pytest.mark.slow
@pytest.mark.usefixtures("process", "export")
def test_the_command_converts_four_formats_at_once(digits, tmp_path):
    formats = ["onnx", "torch-export", "coreml", "litert"]
    words = [word for name in formats for word in ("--to", name)]
    results = []
    for jobs in ("1", "4"):
        done = run_command(
            "export", digits, *words, "-o", tmp_path / jobs, "--jobs", jobs, "--json", timeout=900
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert [result["jobs"] for result in results] == [1, 4]
    one, four = ([Path(item["path"]).name for item in result["artifacts"]] for result in results)
    assert one == four
    tables = [json.loads((tmp_path / jobs / "timmx.json").read_text())["artifacts"] for jobs in ("1", "4")]
    first, second = ({name: item["sha256"] for name, item in table.items()} for table in tables)
    assert first == second
