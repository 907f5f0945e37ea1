"""`forks`: a forked command behaves as a new interpreter does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import forks
import pytest

pytestmark = [
    pytest.mark.usefixtures("process"),
    pytest.mark.skipif(sys.platform != "linux", reason="here, commands start new interpreters"),
]

COMMANDS = {
    "result": "import sys; print(sys.argv, input()); print('é', file=sys.stderr); sys.exit(3)",
    "message": "raise SystemExit('in one line')",
    "environment": "import os, sys; print(os.environ['ASKED'], os.getcwd(), sys.path[:2], __name__)",
    "exit handler": "import atexit; atexit.register(print, 'at the end')",
    "thread": "import threading, time; threading.Timer(0.1, print, ['later']).start()",
    "interrupt": "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)",
    "abort": "import os; os.abort()",
    "closed pipe": "import signal; print(signal.getsignal(signal.SIGPIPE), signal.getsignal(signal.SIGTERM))",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_forked_command_behaves_as_a_new_one(name, tmp_path):
    command = [sys.executable, "-c", COMMANDS[name], "a", "b c"]
    options = {
        "cwd": tmp_path,
        "env": os.environ | {"ASKED": "ü", "PYTHONPATH": str(tmp_path)},
        "input": "a line\n",
    }
    forked = forks.run(command, **options)
    new = subprocess.run(command, text=True, capture_output=True, check=False, **options)
    assert (forked.returncode, forked.stdout) == (new.returncode, new.stdout)
    assert forked.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


def test_a_forked_process_has_its_own_number_group_and_signals():
    code = "import os, time; print(os.getpid(), os.getpgrp(), flush=True); time.sleep(30)"
    with forks.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert list(map(int, process.stdout.readline().split())) == [process.pid, process.pid]
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    process.kill()  # it has ended: nothing happens


def test_torch_is_there_and_timmx_is_not():
    code = "import sys; print('torch' in sys.modules, any(name.startswith('timmx') for name in sys.modules))"
    assert forks.run([sys.executable, "-c", code]).stdout.split() == ["True", "False"]


def test_what_python_reads_at_its_start_is_refused():
    with pytest.raises(ValueError, match="PYTHONUTF8"):
        forks.run([sys.executable, "-c", ""], env=os.environ | {"PYTHONUTF8": "0"})
    with pytest.raises(ValueError, match="not a command"):
        forks.run(["git", "status"])
