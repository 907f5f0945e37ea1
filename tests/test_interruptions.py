"""An export that is stopped, killed, run twice or out of disk space loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import forks
import pytest
from plugins import timmx

pytestmark = pytest.mark.usefixtures("process")

OLD = b"what was there before"


@contextmanager
def running(*arguments, cwd, until):
    """A `timmx` process that has printed `until`; killed at the end if it still runs."""
    process = forks.Popen(
        [sys.executable, "-m", "timmx", *map(str, arguments), "--verbose"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
    )
    try:
        for line in process.stderr:
            if until in line:
                break
        else:
            pytest.fail(f"{until} was never printed; exit status {process.wait()}")
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("step", ["[Loading]", "[Exporting]", "[Verifying]"])
def test_ctrl_c_leaves_nothing_and_exits_130(tmp_path, digits, step):
    output = tmp_path / "digits.pt2"
    output.write_bytes(OLD)
    with running("torch-export", digits, "-o", output, cwd=tmp_path, until=step) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert output.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [output]


def test_sigterm_leaves_nothing(tmp_path, digits):
    command = [str(Path(sys.executable).parent / "timmx"), "torch-export", digits, "--verbose"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path
    )
    assert "[Loading]" in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_a_kill_keeps_the_old_file_and_the_next_run_cleans_up(tmp_path, digits):
    output = tmp_path / "digits.pt2"
    output.write_bytes(OLD)
    with running("torch-export", digits, "-o", output, cwd=tmp_path, until="[Verifying]") as process:
        process.kill()
        process.wait()
    assert output.read_bytes() == OLD
    assert len(list(tmp_path.iterdir())) == 2
    done = timmx("torch-export", digits, "-o", output, "--no-verify", cwd=tmp_path, forked=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [output]
    assert output.read_bytes() != OLD


def test_a_second_export_to_the_same_output_is_refused_at_once(tmp_path, digits):
    output = tmp_path / "digits.pt2"
    with running("torch-export", digits, "-o", output, cwd=tmp_path, until="[Loading]") as process:
        rival = timmx("torch-export", digits, "-o", "digits.pt2", cwd=tmp_path, forked=True)
        assert rival.returncode == 2
        assert str(process.pid) in rival.stderr
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == [output]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path, digits):
    (tmp_path / "file").touch()
    done = timmx("torch-export", digits, "-o", tmp_path / "file" / "digits.pt2", cwd=tmp_path, timeout=10)
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()
    assert "file" in error
    assert hint == "hint: choose another --output"


@pytest.mark.parametrize("backend", ["torch-export", "onnx"])
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can mount a tiny file system; tests/core/test_artifact.py limits the file size instead",
)
def test_a_full_disk_is_reported_in_one_line_and_the_old_file_is_kept(tmp_path, digits, backend):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here; tests/core/test_artifact.py limits the file size instead")
    try:
        output = small / ("digits.pt2" if backend == "torch-export" else "digits.onnx")
        output.write_bytes(OLD)
        done = timmx(backend, digits, "-o", output, cwd=tmp_path, forked=True)
        assert done.returncode == 2
        error, hint = done.stderr.splitlines()
        assert error.startswith("error: ")
        assert "space" in error
        assert hint.startswith("hint: free some space")
        assert output.read_bytes() == OLD
        assert list(small.iterdir()) == [output]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_ctrl_c_inside_a_callback_of_the_garbage_collector_is_not_lost():
    """jax has such a callback, and Python ignores exceptions in it."""
    code = """
import gc, time
from timmx.cli.interrupts import keep_interrupts

def press(phase, info, pressed=[]):
    if not pressed:
        pressed.append(phase)
        raise KeyboardInterrupt

keep_interrupts()
gc.callbacks.append(press)
try:
    gc.collect()
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=False)
    assert done.stdout == "stopped\n", done.stderr
