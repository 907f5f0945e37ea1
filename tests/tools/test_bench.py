"""`timmx bench`: every case is measured, in its own process, and no process remains afterwards."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import timmx as api
from plugins import install_plugin, installed
from timmx.base.threads import usable_cores
from timmx.cli.application import app
from timmx.cli.bench import _text
from timmx.errors import ArtifactError, ConfigurationError
from timmx.tools.bench.rounds import bench
from timmx.tools.bench.timing import pooled_quantiles, ratio_of_medians, settled, spread
from typer.testing import CliRunner

pytestmark = pytest.mark.usefixtures("new_workers")

DIGITS = f"local-dir:{Path(__file__).resolve().parents[2] / 'examples' / 'digits'}"

SLEEPER = """
import json, os, time
import numpy as np
from timmx.contract import ExportBackend, Runner, TensorSpec

class Backend(ExportBackend):
    contract = 1
    name = "{name}"
    help = "A file that says how long it takes."
    suffixes = (".{name}",)

    def export(self, job, options): ...

    def read_metadata(self, path):
        said = json.loads(path.read_text())
        return {
            "schema": 1,
            "model": {"name": "sleeper", "architecture": "sleeper", "source": "module", "trained": False, "seed": None,
                      "weights_sha256": "0", "license": None, "num_classes": 1},
            "format": {"name": "sleeper"}, "versions": {}, "precision": "fp32",
            "input": {
                "name": "input", "layout": "NCHW", "dtype": "float32", "normalization": "graph", "size": [3, 8, 8],
                "value_range": [0, 1],
                "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear", "crop_pct": 1.0,
                "crop_mode": "center", "color_order": "RGB",
            },
            "outputs": [{"name": "output", "kind": "tensor", "shape": ["batch", 1]}],
            "labels": None,
            "batch": {"size": said["batch"]} if "batch" in said else {"dynamic": True},
        }

    def open(self, path, settings):
        return Sleeper(json.loads(path.read_text()))

class Sleeper(Runner):
    def __init__(self, said):
        self.said, self.runs = said, 0
        self.engine = said.get("engine", "")
        batch = said.get("batch", "batch")
        self.inputs = (TensorSpec(name="input", shape=(batch, 3, 8, 8), dtype="float32", layout="NCHW"),)
        self.outputs = (TensorSpec(name="output", shape=(batch, 1), dtype="float32"),)

    def run(self, feeds):
        self.runs += 1
        (array,) = feeds.values()
        if self.runs == self.said.get("dies_at"):
            os._exit(7)
        if len(array) > self.said.get("most", 99):
            raise ValueError(f"no room for {len(array)} images")
        time.sleep(self.said["seconds"])
        return {"output": np.zeros((len(array), 1), np.float32)}
"""


@pytest.fixture(scope="module")
def files(exported_digits) -> dict[str, Path]:
    """The digits model in each format: two with a dynamic batch size, two with a batch size of 1."""
    return {
        "onnx": exported_digits("onnx", dynamic_batch=True),
        "torch-export": exported_digits("torch-export", dynamic_batch=True),
        "litert": exported_digits("litert"),
        "coreml": exported_digits("coreml"),
    }


@pytest.fixture(scope="module")
def result(files, shared):
    """All four formats and PyTorch, on one thread."""

    def fill(folder: Path) -> None:
        found = bench(
            list(files.values()), against=DIGITS, batch_sizes=(4, 1), threads=(1,), seconds=0.2, rounds=6
        )
        (folder / "result").write_bytes(pickle.dumps(found))

    return pickle.loads((shared("bench", fill) / "result").read_bytes())


@pytest.fixture(scope="module")
def sleepers(tmp_path_factory):
    """An installed backend whose files state how long a run takes: a function from name to file, and its folder.

    `timmx bench` runs in this process; only its workers are processes.
    """
    folder = tmp_path_factory.mktemp("sleepers")
    site = folder / "site"
    install_plugin(site, "sleeper", SLEEPER)

    def make(name: str, **said) -> Path:
        path = folder / f"{name}.sleeper"
        path.write_text(json.dumps({"seconds": 0.002} | said))
        return path

    with installed(site):
        yield make, site


@contextmanager
def running(*arguments, until, site=None, cwd):
    """A running `timmx bench` that has printed `until`, and the processes that it has started: name -> pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "timmx", "bench", *map(str, arguments), "--verbose"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | ({"PYTHONPATH": str(site)} if site else {}),
    )
    started = {}
    try:
        for line in process.stderr:
            name, found, number = line.strip().partition(": process ")
            if found:
                started[name.partition(",")[0]] = int(number)
            if until in line:
                break
        else:
            pytest.fail(f"{until} was never printed; exit status {process.wait()}")
        yield process, started
    finally:
        process.kill()
        process.communicate()


def is_gone(pid: int) -> bool:
    """Whether a process has ended, within ten seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_every_case_has_measurements(result, files):
    assert [(case.name, case.batch_size) for case in result.cases] == [
        ("digits (PyTorch)", 1),
        ("digits (PyTorch)", 4),
        ("digits.onnx", 1),
        ("digits.onnx", 4),
        ("digits.pt2", 1),
        ("digits.pt2", 4),
        ("digits.tflite", 1),
        ("digits.mlpackage", 1),
    ]
    for case in result.cases:
        assert not case.error
        assert 0 < case.p50_ms <= case.p90_ms <= case.p99_ms
        assert len(case.rounds_ms) == result.rounds == 6
        assert len(case.latencies_ms) >= 6
        mean_s = sum(case.latencies_ms) / len(case.latencies_ms) / 1000
        assert case.throughput == pytest.approx(case.batch_size / mean_s)
        assert 0 < case.memory["start"] <= case.memory["loaded"] <= case.memory_bytes <= case.memory["end"]
        assert case.memory["opening"] == case.memory["loaded"] - case.memory["start"]
        assert case.warm_up["runs"] > 5
    assert {case.path for case in result.cases} == {None, *files.values()}


def test_ratios_are_relative_to_the_model(result):
    assert result.base == "digits (PyTorch)"
    for case in result.cases:
        low, high = case.ratio_interval
        assert low <= case.ratio <= high
        if case.name == result.base:
            assert (case.ratio, low, high) == (1, 1, 1)


def test_every_format_respects_the_number_of_threads(result):
    for case in result.cases:
        assert case.threads == 1
        assert case.cores_used < 1.2, f"{case.name} used {case.cores_used} cores"


def test_a_fixed_batch_size_is_measured_with_a_note(result):
    (case,) = (case for case in result.cases if case.name == "digits.tflite")
    assert any("batch size is fixed at 1" in note and "not measured at 4" in note for note in case.notes)


def test_latency_of_an_evaluator_says_nothing_about_a_device(result):
    if sys.platform == "darwin":
        pytest.skip("here Core ML itself runs the file")
    shown = _text(result, None)
    (row,) = (line for line in shown.splitlines() if line.startswith("digits.mlpackage *"))
    assert row.split()[4].endswith("*")
    assert "* digits.mlpackage: run by timmx's MIL evaluator" in shown
    assert "nothing about a device" in " ".join(shown.split())


def test_an_onnx_file_is_measured_without_torch(result):
    """The memory would be that of torch."""
    assert all(case.memory_bytes < 250e6 for case in result.cases if case.name == "digits.onnx")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("report") / "bench.html"


@pytest.fixture(scope="module")
def sleeping(sleepers, report):
    """What `timmx bench --json` says about a short and a long sleep, at two batch sizes."""
    make, _ = sleepers
    files = make("short", seconds=0.004), make("long", seconds=0.04, engine="a stand-in")
    options = {"--batch-sizes": "1,2", "--threads": 1, "--seconds": 1, "--rounds": 8, "--report": report}
    arguments = ["bench", *files, "--json", *(word for option in options.items() for word in option)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["timmx", *map(str, arguments)])  # the report has the command
        done = CliRunner().invoke(app, sys.argv[1:])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_a_slower_file_has_a_larger_latency(sleeping):
    short, _, long, _ = sleeping["cases"]
    assert short["p50_ms"] >= 4
    assert long["p50_ms"] >= 40
    assert 2 < long["ratio"] < 12  # 10, with room for longer sleeps on a busy machine
    assert long["throughput"] < 25
    assert long["cores_used"] < 0.5


def test_json_is_one_object_with_all_measurements(sleeping):
    assert sleeping["base"] == "short.sleeper"
    assert sleeping["rounds"] == 8
    assert "arrays" in sleeping["timed"]
    assert sleeping["environment"]["cores"]
    assert len(sleeping["cases"]) == 4
    for case in sleeping["cases"]:
        assert set(case) >= {
            "p50_ms",
            "p90_ms",
            "p99_ms",
            "throughput",
            "memory_bytes",
            "ratio",
            "engine",
            "error",
        }
        assert case["percentiles_ms"]["50"] == case["p50_ms"]
        assert case["percentiles_ms"]["100"] >= case["percentiles_ms"]["0"] > 0
        assert len(case["rounds_ms"]) == 8
        assert case["runs"] >= 8
        assert case["warm_up"]["settled"] in (True, False)
    assert sleeping["cases"][2]["engine"] == "a stand-in"


@pytest.mark.usefixtures("sleeping")
def test_a_report_is_written(report):
    page = report.read_text("utf-8")
    for said in ("long.sleeper, batch 2", "Memory over latency", "Throughput over batch size", "timmx bench"):
        assert said in page


def test_an_unsupported_batch_size_is_reported_and_the_others_are_measured(run_timmx, sleepers):
    make, _ = sleepers
    done = run_timmx("bench", make("small", most=2), "--batch-sizes", "1,8", "--seconds", 0.1, "--rounds", 2)
    assert done.exit_code == 0, done.stderr
    assert "small.sleeper, batch 8: not measured: ValueError: no room for 8 images" in done.stdout
    done = run_timmx("bench", make("small", most=2), "--batch-sizes", 8, "--seconds", 0.1)
    assert done.exit_code == 2
    assert "no room for 8 images" in done.stderr


@pytest.mark.parametrize("dies_at", [3, 400])
def test_a_process_that_ends_is_reported_and_the_others_are_measured(run_timmx, sleepers, dies_at):
    """During warm-up and during measurement."""
    make, _ = sleepers
    done = run_timmx(
        *("bench", make("frail", dies_at=dies_at, seconds=0.001), make("sound"), "--json"),
        *("--seconds", 1, "--rounds", 5),
    )
    assert done.exit_code == 2
    frail, sound = json.loads(done.stdout)["cases"]
    assert "exit status 7" in frail["error"]
    assert frail["p50_ms"] is None
    assert sound["p50_ms"] > 0
    assert not sound["error"]
    assert done.stderr.strip().splitlines()[-1].startswith("error: frail.sleeper could not be measured")


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
def test_a_killed_process_is_reported_and_the_others_are_measured(sleepers, tmp_path):
    make, site = sleepers
    files = [make("killed"), make("spared")]
    with running(*files, "--seconds", 3, "--json", until="[Measuring]", site=site, cwd=tmp_path) as (
        process,
        started,
    ):
        os.kill(started["killed.sleeper"], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    killed, spared = json.loads(stdout)["cases"]
    assert "SIGKILL" in killed["error"]
    assert "memory runs out" in killed["error"]
    assert spared["p50_ms"] > 0
    assert "killed.sleeper could not be measured" in stderr


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_process_is_left_behind(sleepers, tmp_path, ending, status):
    make, site = sleepers
    files = [make("one"), make("two", seconds=0.2)]
    with running(*files, "--seconds", 30, until="[Measuring]", site=site, cwd=tmp_path) as (process, started):
        process.send_signal(ending)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert not stdout
    assert "Traceback" not in stderr
    assert len(started) == 2
    assert all(map(is_gone, started.values()))


def test_modules_in_the_current_folder_are_not_imported(sleepers, tmp_path):
    make, site = sleepers
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    script = str(Path(sys.executable).parent / "timmx")
    done = subprocess.run(
        [script, "bench", str(make("calm")), "--seconds", "0.1", "--rounds", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_more_threads_than_cores_are_reported(run_timmx, sleepers):
    make, _ = sleepers
    wide = usable_cores() + 1
    done = run_timmx("bench", make("wide"), "--threads", wide, "--seconds", 0.1, "--rounds", 1, "--verbose")
    assert done.exit_code == 0
    assert done.stderr.index(f"--threads {wide} is more than the") < done.stderr.index("[Measuring]")


def test_a_changed_file_is_reported(run_timmx, sleepers):
    short = sleepers[0]("short")
    manifest = short.with_name("timmx.json")
    manifest.write_text(json.dumps({"artifacts": {short.name: {"sha256": "0" * 64}}}))
    result = run_timmx("bench", short, "--seconds", "0.1", "--json")
    manifest.unlink()
    assert "short.sleeper is not the file that timmx wrote" in " ".join(json.loads(result.stdout)["warnings"])
    assert "short.sleeper is not the file that timmx wrote" in result.stderr


def test_busy_cores_are_reported(run_timmx, sleepers):
    make, _ = sleepers
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(usable_cores())]
    try:
        done = run_timmx(
            *("bench", make("calm"), "--threads", usable_cores(), "--seconds", 0.1, "--rounds", 1, "--json")
        )
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    assert done.exit_code == 0
    (before,) = (text for text in json.loads(done.stdout)["warnings"] if "before measuring began" in text)
    assert "cores busy" in before
    assert before.split()[0] == "Other"
    assert "cores busy before measuring began" in done.stderr.replace("\n", " ")


def test_all_files_of_an_export_can_be_named_with_a_glob(run_timmx, sleepers, tmp_path):
    """`out/*` also matches the manifest of the export."""
    make, _ = sleepers
    (tmp_path / "timmx.json").write_text("{}")
    short = ("--seconds", 0.1, "--rounds", 1)
    done = run_timmx("bench", make("a"), tmp_path / "timmx.json", *short, "--json")
    assert done.exit_code == 0, done.stderr
    assert [case["name"] for case in json.loads(done.stdout)["cases"]] == ["a.sleeper"]
    (tmp_path / "notes.txt").write_text("")
    done = run_timmx("bench", make("a"), tmp_path / "notes.txt", *short)
    assert done.exit_code == 2
    assert "notes.txt" in done.stderr
    done = run_timmx("bench", tmp_path)
    assert done.exit_code == 2
    assert "is a folder" in done.stderr
    assert "timmx compare" in done.stderr


def test_a_case_without_a_base_says_why_it_has_no_ratio(run_timmx, sleepers):
    make, _ = sleepers
    done = run_timmx("bench", make("one", batch=1), make("four", batch=4), "--seconds", 0.1, "--rounds", 1)
    assert done.exit_code == 0, done.stderr
    assert "four.sleeper: no ratio, because one.sleeper was not measured at batch size 4" in done.stdout
    assert "1 round cannot give the ratios an interval: use --rounds 5 or more." in done.stderr


def test_remarks_name_files_and_not_each_case(run_timmx, sleepers):
    make, _ = sleepers
    done = run_timmx(
        *("bench", make("slow", seconds=0.03), make("fast", seconds=0.0001), "--batch-sizes", "1,2,3"),
        *("--threads", "1,2", "--seconds", 0.3, "--rounds", 2),
    )
    assert done.exit_code == 0, done.stderr
    assert "slow.sleeper: fewer than 100 runs" in done.stdout
    assert "batch 3, 2 threads" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 140


def test_equal_file_names_are_distinguished(run_timmx, sleepers, tmp_path):
    make, _ = sleepers
    first = make("twin")
    other = tmp_path / "twin.sleeper"
    other.write_text(first.read_text())
    done = run_timmx("bench", first, other, other, "--json", "--seconds", 0.1, "--rounds", 1)
    names = [case["name"] for case in json.loads(done.stdout)["cases"]]
    assert names == [str(first), str(other), f"{other} again"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.onnx"], "missing.onnx"),
        (["FILE", "--compile"], "name the model with --against"),
        (["FILE", "--num-classes", 3], "hint: name the model with --against"),
        (["FILE", "--threads", 0], "at least 1"),
        (["FILE", "--batch-sizes", "0,1"], "at least 1"),
        (["FILE", "--seconds", 0], "above 0"),
        (["FILE", "--seconds", "inf"], "above 0"),
        (["FILE", "--threads", 5000], "more than 4 times"),
        (["FILE", "--threads", 5000], "hint: give at most"),
        (["FILE", "--report", "bench.txt"], "bench.html"),
        (["FILE", "--against", "no_such_model"], "no_such_model"),
    ],
)
def test_invalid_arguments_are_refused(run_timmx, files, arguments, said):
    shown = run_timmx("bench", *(files["onnx"] if item == "FILE" else item for item in arguments))
    assert shown.exit_code != 0
    assert said in str(shown.exception or "") + shown.stderr
    assert not shown.stdout


def test_a_missing_compiler_is_reported_at_once(files, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(api.MissingRequirementError, match="no no-such-compiler on PATH"):
        bench([files["onnx"]], against=DIGITS, compile=True)


def test_a_file_of_another_program_is_refused(tmp_path, files):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"no model")
    with pytest.raises(ArtifactError, match=r"other\.onnx"):
        bench([files["onnx"], other])
    with pytest.raises(ConfigurationError, match="hint: name one or more files"):
        bench([])


def test_warm_up_ends_when_the_last_blocks_agree():
    assert not settled([1.0, 1.0, 1.0, 1.0])
    assert not settled([9.0, 5.0, 3.0, 2.0, 1.5])
    assert settled([9.0, 5.0, 1.0, 1.01, 1.0, 0.99, 1.0])


def test_common_drift_does_not_change_the_ratio():
    base = [1.0, 1.1, 1.5, 2.0, 2.5, 3.0, 3.1]
    ratio, interval = ratio_of_medians([[2 * value] for value in base], [[value] for value in base])
    assert ratio == pytest.approx(2)
    assert interval == pytest.approx((2, 2))
    assert spread(base) > 0.5
    assert ratio_of_medians([[2.0], [2.0]], [[1.0], [1.0]]) == (2.0, None)


def test_rounds_have_the_same_weight_whatever_their_number_of_runs():
    """A fast round has more runs: 10 runs of 1 ms in 10 ms, compared with one of 10 ms."""
    rounds = [[1.0] * 10, [10.0], [11.0]]
    assert pooled_quantiles(rounds, (0.0, 0.3, 0.5, 1.0)) == (1, 1, 10, 11)
    ratio, _ = ratio_of_medians(rounds, [[5.0]] * 3)
    assert ratio == 2


def test_the_ratio_is_that_of_the_medians_shown(result):
    base = {case.batch_size: case for case in result.cases if case.name == result.base}
    for case in result.cases:
        assert case.ratio == pytest.approx(case.p50_ms / base[case.batch_size].p50_ms)
