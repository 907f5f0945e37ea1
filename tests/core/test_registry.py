"""Bad plugins of every kind among good ones: each has a state, and none affects another command."""

from __future__ import annotations

import json

import pytest
from plugins import GOOD, install_plugin, timmx
from timmx.errors import BackendError
from timmx.registry import discovery as registry

DEPENDENCY_MISSING = "import no_such_library\n"
RAISES = "raise RuntimeError('inside out')\n"
EXITS = "import sys; sys.exit(3)\n"
PRINTS = "print('I am a plugin')\n" + GOOD
ABORTS = "import os; os.abort()\n"
NO_BACKEND = "class Backend: pass\n"


def rows(site, **environment):
    done = timmx("backends", "--json", site=site, **environment)
    assert done.returncode == 0, done.stderr
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
def test_a_bad_plugin_is_named_with_its_fix(process, tmp_path, source, words):
    install_plugin(tmp_path, "odd", source)
    done = timmx("odd", "resnet18", site=tmp_path)
    assert done.returncode == 2
    assert "timmx-odd 1.2.3" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plugin_whose_module_is_missing_is_reported(process, tmp_path):
    install_plugin(tmp_path, "gone", target="timmx_not_there.plugin:Backend")
    done = timmx("gone", "resnet18", site=tmp_path)
    assert done.returncode == 2
    assert "its own module timmx_not_there is missing" in done.stderr


def test_debug_shows_the_plugins_traceback(process, tmp_path):
    install_plugin(tmp_path, "odd", RAISES)
    done = timmx("odd", "resnet18", "--debug", site=tmp_path)
    assert "raise RuntimeError('inside out')" in done.stderr


def test_bad_plugins_do_not_affect_others(process, tmp_path):
    install_plugin(tmp_path, "raises", RAISES)
    install_plugin(tmp_path, "exits", EXITS)
    install_plugin(tmp_path, "aborts", ABORTS)
    install_plugin(tmp_path, "prints", PRINTS)
    install_plugin(tmp_path, "list", distribution="timmx-reserved")
    install_plugin(tmp_path, "Bad_Name", distribution="timmx-named")
    install_plugin(tmp_path, "needy", requires=("torch>=999", "numpy>=1"))
    install_plugin(tmp_path, "onnx", distribution="timmx-rival")
    shown = timmx("--help", site=tmp_path)
    assert shown.returncode == 0
    for words in ("(invalid)", "(unmet requirement)", "(duplicate)", "raises", "torch-export"):
        assert words in shown.stdout
    assert "I am a plugin" not in shown.stdout

    found = rows(tmp_path)
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

    chosen = timmx("onnx", "resnet18", site=tmp_path)
    assert chosen.returncode == 2
    assert "timmx-onnx and timmx-rival both provide 'onnx'" in chosen.stderr
    assert timmx("timmx-onnx:onnx", "--help", site=tmp_path).returncode == 0


def test_doctor_exits_2_and_shows_the_fix_of_a_broken_backend(process, tmp_path):
    install_plugin(tmp_path, "aborts", ABORTS)
    done = timmx("doctor", site=tmp_path)
    assert done.returncode == 2
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


def test_doctor_reports_another_distribution_with_the_name(process, tmp_path):
    (tmp_path / "timmx-0.10.1.dist-info").mkdir()
    (tmp_path / "timmx-0.10.1.dist-info" / "METADATA").write_text("Name: timmx\nVersion: 0.10.1\n")
    (tmp_path / "timmx-0.10.1.dist-info" / "RECORD").write_text("timmx/old.py,,\n")
    (tmp_path / "timmx").mkdir()
    (tmp_path / "timmx" / "old.py").touch()
    (tmp_path / "timmx-0.10.1.dist-info" / "entry_points.txt").write_text(
        "[console_scripts]\ntimmx = timmx.cli:app\n"
    )
    done = timmx("doctor", "--json", site=tmp_path)
    assert done.returncode == 2
    (problem,) = json.loads(done.stdout)["problems"]
    assert "timmx 0.10.1 owns the command timmx and the import package timmx" in problem["message"]
    assert problem["fix"].startswith("uv pip uninstall timmx ")


def test_a_missing_requirement_is_a_state_with_its_fix(process, tmp_path):
    lacking = GOOD + (
        "    def check_environment(self, request=None, options=None):\n"
        "        from timmx.contract import Problem\n"
        "        return [Problem('the frobnicator is missing.', 'apt install frobnicator')]\n"
    )
    install_plugin(tmp_path, "lacking", lacking)
    row = rows(tmp_path)["timmx-lacking:lacking"]
    assert (row["state"], row["fix"]) == ("needs setup", "apt install frobnicator")
    done = timmx("lacking", "test_resnet", site=tmp_path)
    assert done.returncode == 2
    assert "apt install frobnicator" in done.stderr


def test_strict_mode_makes_any_problem_an_error(process, tmp_path):
    install_plugin(tmp_path, "needy", requires=("torch>=999",))
    for arguments in (("--help",), ("list", "resnet18"), ("onnx", "--help")):
        done = timmx(*arguments, site=tmp_path, TIMMX_STRICT="1")
        assert done.returncode == 2
        assert "timmx-needy:needy is unmet requirement" in done.stderr
        assert timmx(*arguments, TIMMX_STRICT="1").returncode == 0
    install_plugin(tmp_path, "raises", RAISES)
    shown = timmx("backends", "--json", site=tmp_path, TIMMX_STRICT="1")
    assert shown.returncode == 2
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
    done = timmx(backend, digits, "-o", output, "--no-verify", site=site, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith(output)


def test_disabled_backends_are_marked_and_refused(process, tmp_path):
    done = timmx("onnx", "resnet18", TIMMX_DISABLE_BACKENDS="onnx")
    assert done.returncode == 2
    assert "is disabled" in done.stderr
    assert "(disabled)" in timmx("--help", TIMMX_DISABLE_BACKENDS="onnx").stdout


def test_the_hint_for_a_missing_backend_is_the_install_command(process, monkeypatch):
    """`.ci/wheels.py` checks the same on the command line, in an environment without the others."""
    monkeypatch.setattr(registry, "entries", lambda: ())
    with pytest.raises(BackendError, match="uv pip install timmx-tensorrt"):
        registry.find("tensorrt")
    unknown = timmx("nonsense", "resnet18")
    assert unknown.returncode == 2
    assert "pip install" not in unknown.stderr
