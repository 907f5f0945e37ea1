"""Bad plugins of every kind among good ones: each has a state, and none affects another command."""

from __future__ import annotations

import json

import pytest
from plugins import GOOD, install_plugin, installed, timmx
from timmx.errors import BackendError
from timmx.registry import discovery as registry

DEPENDENCY_MISSING = "import no_such_library\n"
RAISES = "raise RuntimeError('inside out')\n"
EXITS = "import sys; sys.exit(3)\n"
PRINTS = "print('I am a plugin')\n" + GOOD
ABORTS = "import os; os.abort()\n"
NO_BACKEND = "class Backend: pass\n"


@pytest.fixture
def run_in(run_timmx):
    """`timmx ARGS` in this process, with the plugins of a folder: (site, *arguments) -> exit_code, stdout, stderr."""

    def run(site, *arguments: object):
        with installed(site):
            return run_timmx(*arguments)

    return run


OTHERS = "coreml,litert,onnx"
"""Formats whose probes would only take time."""


def rows(run_in, site):
    done = run_in(site, "backends", "--json")
    assert done.exit_code == 0, done.stderr
    return {f"{row['distribution']}:{row['name']}": row for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (DEPENDENCY_MISSING, "no_such_library, which is not installed"),
        (RAISES, "RuntimeError: inside out"),
        (EXITS, "SystemExit: 3"),
        (NO_BACKEND, "is not an ExportBackend"),
        (
            GOOD.replace("contract = 1", "contract = 0"),
            "hint: uv pip install --upgrade timmx-odd",
        ),
        (
            GOOD.replace("contract = 1", "contract = 2"),
            "hint: uv pip install --upgrade timmx-core",
        ),
        (GOOD.replace('"{name}"', '"other"'), "its entry point is called 'odd', the backend 'other'"),
    ],
)
def test_a_bad_plugin_is_named_with_its_fix(run_in, tmp_path, source, words):
    install_plugin(tmp_path, "odd", source)
    done = run_in(tmp_path, "odd", "resnet18")
    assert done.exit_code == 2
    assert "timmx-odd 1.2.3" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plugin_whose_module_is_missing_is_reported(run_in, tmp_path):
    install_plugin(tmp_path, "gone", target="timmx_not_there.plugin:Backend")
    done = run_in(tmp_path, "gone", "resnet18")
    assert done.exit_code == 2
    assert "its own module timmx_not_there is missing" in done.stderr


def test_debug_shows_the_plugins_traceback(run_in, tmp_path):
    install_plugin(tmp_path, "odd", RAISES)
    done = run_in(tmp_path, "odd", "resnet18", "--debug")
    assert "raise RuntimeError('inside out')" in done.stderr


def test_bad_plugins_do_not_affect_others(process, run_in, tmp_path):
    install_plugin(tmp_path, "raises", RAISES)
    install_plugin(tmp_path, "exits", EXITS)
    install_plugin(tmp_path, "aborts", ABORTS)
    install_plugin(tmp_path, "prints", PRINTS)
    install_plugin(tmp_path, "list", distribution="timmx-reserved")
    install_plugin(tmp_path, "Bad_Name", distribution="timmx-named")
    install_plugin(tmp_path, "needy", requires=("torch>=999", "numpy>=1"))
    install_plugin(tmp_path, "onnx", distribution="timmx-rival")
    shown = run_in(tmp_path, "--help")
    assert shown.exit_code == 0
    for words in ("(invalid)", "(unmet requirement)", "(duplicate)", "raises", "torch-export"):
        assert words in shown.stdout
    assert "I am a plugin" not in shown.stdout

    found = rows(run_in, tmp_path)
    assert found["timmx-torch-export:torch-export"]["state"] == "available"
    assert found["timmx-torch-export:torch-export"]["contract"] == 1
    assert found["timmx-raises:raises"]["state"] == "broken"
    assert found["timmx-exits:exits"]["state"] == "broken"
    assert "signal 6" in found["timmx-aborts:aborts"]["reason"]
    assert found["timmx-prints:prints"]["state"] == "available"
    assert found["timmx-reserved:list"]["state"] == "invalid"
    assert found["timmx-named:Bad_Name"]["state"] == "invalid"
    assert found["timmx-needy:needy"]["state"] == "unmet requirement"
    assert "torch>=999" in found["timmx-needy:needy"]["reason"]
    assert found["timmx-onnx:onnx"]["state"] == found["timmx-rival:onnx"]["state"] == "duplicate"

    chosen = run_in(tmp_path, "onnx", "resnet18")
    assert chosen.exit_code == 2
    assert "timmx-onnx and timmx-rival both provide 'onnx'" in chosen.stderr
    assert run_in(tmp_path, "timmx-onnx:onnx", "--help").exit_code == 0


def test_doctor_exits_2_and_shows_the_fix_of_a_broken_backend(process, run_in, tmp_path, monkeypatch):
    monkeypatch.setenv("TIMMX_DISABLE_BACKENDS", OTHERS)
    install_plugin(tmp_path, "aborts", ABORTS)
    done = run_in(tmp_path, "doctor")
    assert done.exit_code == 2
    assert "uv pip install --reinstall timmx-aborts" in done.stdout
    assert "torch-export" in done.stdout


def test_a_backend_that_hangs_is_reported(process, tmp_path, monkeypatch):
    from timmx.registry import discovery as registry, probe

    install_plugin(tmp_path, "hangs", "import time; time.sleep(600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    registry.entries.cache_clear()
    try:
        found = {entry.name: entry for entry in probe.probe_backends(timeout_s=5)}
    finally:
        registry.entries.cache_clear()
    assert found["hangs"].state is registry.State.BROKEN
    assert "more than 5 s" in found["hangs"].reason
    assert found["onnx"].state is registry.State.AVAILABLE


def test_doctor_reports_another_distribution_with_the_name(process, run_in, tmp_path, monkeypatch):
    site = tmp_path / "site"  # not the current folder
    monkeypatch.setenv("TIMMX_DISABLE_BACKENDS", OTHERS)
    (site / "timmx-0.10.1.dist-info").mkdir(parents=True)
    (site / "timmx-0.10.1.dist-info" / "METADATA").write_text("Name: timmx\nVersion: 0.10.1\n")
    (site / "timmx-0.10.1.dist-info" / "RECORD").write_text("timmx/old.py,,\n")
    (site / "timmx").mkdir()
    (site / "timmx" / "old.py").touch()
    (site / "timmx-0.10.1.dist-info" / "entry_points.txt").write_text(
        "[console_scripts]\ntimmx = timmx.cli:app\n"
    )
    done = run_in(site, "doctor", "--json")
    assert done.exit_code == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert "timmx 0.10.1 owns the command timmx and the import package timmx" in problem["message"]
    assert problem["fix"].startswith("uv pip uninstall timmx ")


def test_a_missing_requirement_is_a_state_with_its_fix(process, run_in, tmp_path, monkeypatch):
    monkeypatch.setenv("TIMMX_DISABLE_BACKENDS", OTHERS)
    lacking = GOOD + (
        "    def check_environment(self, request=None, options=None):\n"
        "        from timmx.contract import Problem\n"
        "        return [Problem('the frobnicator is missing.', 'apt install frobnicator')]\n"
    )
    install_plugin(tmp_path, "lacking", lacking)
    row = rows(run_in, tmp_path)["timmx-lacking:lacking"]
    assert (row["state"], row["fix"]) == ("needs setup", "apt install frobnicator")
    done = run_in(tmp_path, "lacking", "test_resnet")
    assert done.exit_code == 2
    assert "apt install frobnicator" in done.stderr


def test_strict_mode_makes_any_problem_an_error(process, run_in, run_timmx, tmp_path, monkeypatch):
    site = tmp_path / "site"  # not the current folder
    monkeypatch.setenv("TIMMX_STRICT", "1")
    install_plugin(site, "needy", requires=("torch>=999",))
    for arguments in (("--help",), ("list", "resnet18"), ("onnx", "--help")):
        done = run_in(site, *arguments)
        assert done.exit_code == 2
        assert "timmx-needy:needy is unmet requirement" in done.stderr
        assert run_timmx(*arguments).exit_code == 0
    install_plugin(site, "raises", RAISES)
    shown = run_in(site, "backends", "--json")
    assert shown.exit_code == 2
    assert {"onnx", "needy", "raises"} <= {row["name"] for row in json.loads(shown.stdout)}
    assert "timmx-raises:raises is broken" in shown.stderr


def test_an_optional_method_that_a_later_contract_adds_does_not_break_a_backend(tmp_path, monkeypatch):
    from timmx.contract.backend import ExportBackend
    from timmx.registry import discovery as registry

    install_plugin(tmp_path, "plain")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        ExportBackend, "tune", lambda self, path: "not declared by this backend", raising=False
    )
    registry.entries.cache_clear()
    try:
        backend = registry.load("plain")
    finally:
        registry.entries.cache_clear()
    assert backend.tune(tmp_path) == "not declared by this backend"


def test_capabilities_added_later_are_off_until_a_backend_declares_them():
    from dataclasses import fields

    from timmx.contract.capabilities import NOT_DECLARED, Capabilities

    first = {"dynamic_batch", "dynamic_batch_from_one", "several_outputs", "cuda", "reproducible"}
    first.add("larger_batches")  # every backend had them before the capability existed
    defaults = {field.name: field.default for field in fields(Capabilities)}
    assert all(defaults[name] is True for name in first)
    assert all(default == NOT_DECLARED for name, default in defaults.items() if name not in first)


@pytest.mark.parametrize("rival", [False, True])
def test_plugins_do_not_change_exports_of_others(process, tmp_path, digits, rival):
    """Plugins that raise, exit, print or abort on import, fifty with unmet requirements, or a second one of a name."""
    site = tmp_path / "site"
    if rival:
        install_plugin(site, "torch-export", RAISES, distribution="timmx-rival")
    else:
        for name, source in (("raises", RAISES), ("exits", EXITS), ("prints", PRINTS), ("aborts", ABORTS)):
            install_plugin(site, name, source)
        for number in range(50):
            install_plugin(site, f"b{number}", RAISES, requires=("nothing-of-the-kind",))
    backend, output = ("onnx", "digits.onnx") if rival else ("torch-export", "digits.pt2")
    done = timmx(
        backend, digits, "-o", output, *([] if rival else ["--json"]), site=site, cwd=tmp_path, forked=True
    )
    assert done.returncode == 0
    assert done.stderr == ""
    if rival:
        assert done.stdout.startswith(output)
    else:
        assert json.loads(done.stdout)["path"] == output


def test_disabled_backends_are_marked_and_refused(run_in, tmp_path, monkeypatch):
    monkeypatch.setenv("TIMMX_DISABLE_BACKENDS", "onnx")
    done = run_in(tmp_path, "onnx", "resnet18")
    assert done.exit_code == 2
    assert "is disabled" in done.stderr
    assert "(disabled)" in run_in(tmp_path, "--help").stdout


def test_the_hint_for_a_missing_backend_is_the_install_command(run_timmx, monkeypatch):
    """`.ci/wheels.py` checks the same on the command line, in an environment without the others."""
    with monkeypatch.context() as patch:
        patch.setattr(registry, "entries", lambda: ())
        with pytest.raises(BackendError, match="uv pip install timmx-tensorrt"):
            registry.find("tensorrt")
    unknown = run_timmx("nonsense", "resnet18")
    assert unknown.exit_code == 2
    assert "pip install" not in unknown.stderr
