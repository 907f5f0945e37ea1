"""Modules in the current folder, which may be untrusted, are not imported by timmx or its children."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from timmx.registry import discovery, probe

pytestmark = pytest.mark.usefixtures("process")

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "json",
    "numpy",
    "timm",
    "torch",
    "subprocess",
    "timmx_onnx",
    "timmx_torch_export",
    "onnx",
    "sitecustomize",
)


@pytest.fixture
def planted(tmp_path, monkeypatch) -> Path:
    """The current folder, with modules that say that they ran, and a plugin."""
    folder = tmp_path / "untrusted"
    folder.mkdir()
    for name in (*MODULES, "evil"):
        (folder / f"{name}.py").write_text(
            f"with open({str(tmp_path / 'ran')!r}, 'a') as file: print(__name__, file=file)\nraise SystemExit\n"
        )
    info = folder / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[timmx.backends]\nevil = evil:Backend\n")
    monkeypatch.chdir(folder)
    return folder


def ran(planted: Path) -> str:
    marker = planted.parent / "ran"
    return marker.read_text() if marker.exists() else ""


def timmx(*words: str, module: bool) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "timmx"] if module else [str(Path(sys.executable).parent / "timmx")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        [*start, *words], capture_output=True, text=True, env=environment, timeout=300, check=False
    )


@pytest.mark.parametrize(("command", "module"), [("backends", True), ("doctor", False)])
def test_backends_and_doctor_import_nothing_from_the_current_folder(planted, command, module):
    done = timmx(command, "--json", module=module)
    assert ran(planted) == ""
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    rows = content if isinstance(content, list) else content["backends"]
    assert {row["state"] for row in rows} == {"available"}
    assert "evil" not in {row["name"] for row in rows}


@pytest.mark.parametrize("module", [True, False])
def test_commands_without_children_import_nothing_from_the_current_folder(planted, module):
    for words in (["--help"], ["onnx", "--help"], ["inspect", "missing.onnx"]):
        timmx(*words, module=module)
    assert ran(planted) == ""


@pytest.mark.slow
@pytest.mark.parametrize("module", [True, False])
def test_bench_imports_nothing_from_the_current_folder(planted, exported_digits, module):
    done = timmx("bench", str(exported_digits("onnx")), "--seconds", "0.1", module=module)
    assert ran(planted) == ""
    assert done.returncode == 0, done.stderr


def test_a_worker_of_bench_imports_nothing_from_the_current_folder(new_workers, planted, monkeypatch):
    from timmx.tools.bench.process import WorkerFailure, WorkerProcess

    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as in an interactive session
    with WorkerProcess(1) as worker, pytest.raises(WorkerFailure, match="no attribute 'nothing'"):
        worker.ask("nothing")
    assert ran(planted) == ""


def test_a_child_of_a_plugin_imports_nothing_from_the_current_folder(planted, monkeypatch):
    """The variable is inherited, and not only an option of timmx's own children."""
    commands = []
    monkeypatch.setattr(
        probe.subprocess,
        "Popen",
        lambda command, **more: (
            commands.append(more["env"])
            or mock.Mock(returncode=0, **{"communicate.return_value": ("{}", "")})
        ),
    )
    probe._run_child(discovery.entries()[0], 1, set())
    assert [environment["PYTHONSAFEPATH"] for environment in commands] == ["1"]


def test_every_child_has_a_safe_path():
    sources = [path for path in ROOT.glob("packages/*/src/**/*.py") if "sys.executable" in path.read_text()]
    assert len(sources) >= 3
    for path in sources:
        text = path.read_text()
        assert '"-P"' in text or '"PYTHONSAFEPATH": "1"' in text, path
