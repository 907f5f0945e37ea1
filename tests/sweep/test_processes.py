"""Sweeps with real child processes: crashes, hangs, memory, kept files, kills and resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from plugins import on_path, timmx
from timmx.sweep.cell import CellStatus
from timmx.sweep.choices import Keep
from timmx.sweep.driver import Limits
from timmx.sweep.journal import JOURNAL_NAME
from timmx.sweep.models import find_models
from timmx.sweep.start import run_sweep
from timmx.sweep.summary import summarize

pytestmark = pytest.mark.usefixtures("process", "export", "fake")


def sweep(folder: Path, *targets: str, models=("test_resnet",), awaken: bool = True, **options):
    return run_sweep(
        find_models(models),
        targets,
        folder,
        options={"awaken": True} if awaken else {},
        **{"limits": Limits(seconds=120)} | options,
    )


def test_each_failure_has_its_reason_and_the_other_formats_go_on(tmp_path):
    targets = [f"fake:do={do}" for do in ("crash", "refuse", "raise", "full", "wrong", "ok")]
    summary = sweep(tmp_path / "out", *targets)
    cells = {target.removeprefix("fake:do="): cell for (_, target), cell in summary.cells.items()}
    assert {do: cell.status for do, cell in cells.items()} == {
        "crash": CellStatus.CRASHED,
        "refuse": CellStatus.REFUSED,
        "raise": CellStatus.ERROR,
        "full": CellStatus.REFUSED,
        "wrong": CellStatus.FAILED,
        "ok": CellStatus.UNPROVEN,
    }
    assert "SIGSEGV" in cells["crash"].message
    assert (cells["refuse"].message, cells["refuse"].hint) == (
        "this format has no operation 17",
        "use another format",
    )
    assert "ValueError: not a graph" in cells["raise"].message
    assert cells["full"].kind == "ArtifactError"
    assert cells["wrong"].snr_db < 10
    assert cells["wrong"].floor_db == 60
    assert cells["wrong"].command == "timmx fake test_resnet --output test_resnet.fake --awaken --do wrong"
    assert {(cell.family, cell.weights) for cell in cells.values()} == {("resnet", "awakened")}
    assert cells["ok"].parameters > 100_000
    assert cells["ok"].memory_bytes > 10**8
    assert summary.exit_code == 1
    kept = sorted(path.name for path in (tmp_path / "out" / "test_resnet").iterdir())
    assert kept == ["test_resnet.fake", "timmx.json"]
    assert cells["ok"].file == "test_resnet/test_resnet.fake"


def test_limits_of_time_and_memory_end_a_format(tmp_path):
    summary = sweep(
        tmp_path,
        "fake:do=hang",
        "fake:do=memory",
        "fake:do=ok",
        limits=Limits(seconds=12, memory_bytes=2_500_000_000),
    )
    hang, memory, ok = summary.cells.values()
    assert hang.status is CellStatus.TIMEOUT
    assert "took more than 12 s (while exporting)" in hang.message
    assert memory.status is CellStatus.MEMORY
    assert "more than 2.5 GB" in memory.message
    assert ok.status is CellStatus.UNPROVEN
    assert not [path for path in (tmp_path / "test_resnet").iterdir() if path.name.startswith(".")]


def test_a_crash_that_an_earlier_format_causes_is_not_charged_to_the_next(tmp_path):
    summary = sweep(tmp_path, "fake", "fake:do=crash-later")
    assert {cell.status for cell in summary.cells.values()} == {CellStatus.UNPROVEN}


def test_a_model_that_does_not_load_fails_all_its_formats(tmp_path):
    listing = tmp_path / "models.txt"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"architecture": "test_resnet"}')
    (broken / "model.safetensors").write_bytes(b"not weights")
    listing.write_text(f"local-dir:{broken}\ntest_resnet\n")
    summary = run_sweep(
        find_models([], [listing]), ["fake", "fake:do=slow"], tmp_path / "out", keep=Keep.NONE
    )
    first, second, *others = summary.cells.values()
    assert first.status is second.status is CellStatus.REFUSED
    assert first.kind == "ModelError"
    assert [cell.status for cell in others] == [CellStatus.UNPROVEN] * 2


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        (Keep.NONE, []),
        (Keep.PASSED, ["test_resnet.fake", "timmx.json"]),
        (Keep.ALL, ["failed/test_resnet-wrong.fake", "test_resnet.fake", "timmx.json"]),
    ],
)
def test_files_are_kept_as_requested(tmp_path, keep, names):
    out = tmp_path / "out"
    sweep(out, "fake:do=wrong", "fake", keep=keep)
    folder = out / "test_resnet"
    kept = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert kept == names
    assert folder.exists() == bool(names)


def test_a_folder_that_cannot_be_written_fails_its_cells_only(tmp_path):
    tmp_path.joinpath("out").mkdir()
    (tmp_path / "out" / "test_vit").write_text("a file of the user")
    summary = sweep(tmp_path / "out", "fake", models=("test_resnet", "test_vit"))
    good, bad = summary.cells.values()
    assert good.status is CellStatus.UNPROVEN
    assert (bad.status, bad.kind) == (CellStatus.REFUSED, "ArtifactError")
    assert (tmp_path / "out" / "test_vit").read_text() == "a file of the user"


@pytest.mark.slow
def test_a_preload_that_starts_a_thread_is_not_forked(tmp_path):
    """The children are spawned instead, as on macOS and Windows."""
    site, out = tmp_path / "site", tmp_path / "out"
    (site / "starts_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    plugin = site / "timmx_fake.py"
    plugin.write_text(
        plugin.read_text().replace("toolchain =", 'preload = ("starts_a_thread",)\n    toolchain =')
    )
    done = timmx(
        "sweep", "test_resnet", "--to", "fake", "--to", "fake:do=crash", "-o", out, site=site, timeout=900
    )
    assert done.returncode == 1, done.stderr
    summary = summarize(out / JOURNAL_NAME)
    assert [cell.status for cell in summary.cells.values()] == [CellStatus.UNPROVEN, CellStatus.CRASHED]


def test_accuracy_is_measured_on_labeled_images(tmp_path, digits):
    samples = f"{digits.removeprefix('local-dir:')}/samples"
    summary = run_sweep(find_models([digits]), ["torch-export", "fake"], tmp_path, data=Path(samples))
    program, other = summary.cells.values()
    assert program.status is CellStatus.VERIFIED
    assert program.accuracy == program.model_accuracy == 1.0
    assert other.accuracy is None


def run_command(site: Path, *arguments: object, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": on_path(site), "COLUMNS": "200", "NO_COLOR": "1"} | variables
    return subprocess.Popen(
        [sys.executable, "-m", "timmx", "sweep", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
    )


@pytest.fixture
def scratch():
    """A folder for TMPDIR. Its path is short, because sockets have paths of at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="sweep-"))
    yield folder
    shutil.rmtree(folder)


def children_of_sweeps(scratch: Path) -> list[int]:
    """Processes that export a model for a sweep whose temporary folder this is."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                links = [str(link.readlink()) for link in (entry / "fd").iterdir()]
            except OSError:
                continue
            if any(link.startswith(f"{scratch}/timmx-process-") for link in links):  # the log of its output
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_is_resumed(run_timmx, tmp_path, scratch, how):
    """It is resumed in this process, whose fork server has imported torch."""
    site, out = tmp_path / "site", tmp_path / "out"
    arguments = ["test_resnet", "test_vit", "--to", "fake", "--to", "fake:do=slow", "-o", out]
    running = run_command(site, *arguments, "--json", cwd=tmp_path, SWEEP_SLOW="100", TMPDIR=str(scratch))
    first = json.loads(running.stdout.readline())["cell"]
    assert (first["model"], first["target"], first["status"]) == ("test_resnet", "fake", "unproven")
    rival = run_timmx("sweep", "test_resnet", "--to", "fake", "-o", out, "--resume")
    assert rival.exit_code == 2
    assert "another sweep is writing" in rival.stderr
    assert children_of_sweeps(scratch)
    running.send_signal(how)
    _, errors = running.communicate(timeout=60)
    if how == signal.SIGINT:
        assert running.returncode == 130
        assert "1 of 4 cells are recorded" in errors
        assert "Traceback" not in errors
    deadline = time.monotonic() + 20
    while children_of_sweeps(scratch) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not children_of_sweeps(scratch)
    with (out / JOURNAL_NAME).open("ab") as journal:
        journal.write(b'{"cell": {"model": "te')  # a kill in the middle of a line
    plugin = site / "timmx_fake.py"
    plugin.write_text(plugin.read_text().replace('"SWEEP_SLOW", "5"', '"SWEEP_SLOW", "0.01"'))
    resumed = run_timmx("sweep", "-o", out, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    lines = [json.loads(line) for line in resumed.stdout.splitlines()]
    assert [line["cell"]["target"] for line in lines[:-1]] == ["fake:do=slow", "fake", "fake:do=slow"]
    assert lines[-1]["results"]["passed"] == 4
    report = run_timmx("sweep", "report", out)
    assert report.exit_code == 0
    assert "4 of 4 cells passed." in report.stdout
    assert resumed.stderr == ""
