"""Plugins and distributions that are broken: the cause is named, and everything else works."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from PIL import Image
from plugins import install_plugin, on_path, timmx
from timmx.cli.application import _terminate
from timmx.errors import BackendError, PluginError
from timmx.registry import discovery as registry, probe

pytestmark = pytest.mark.usefixtures("process", "export")

SOURCE = """
import json
import os
import sys

from timmx.plugin import *

class FakeRunner(Runner):
    def __init__(self, path):
        metadata = json.loads(path.read_text())
        channels, height, width = metadata["input"]["size"]
        self.inputs = (TensorSpec(name="input", shape=(1, channels, height, width), dtype="float32"),)
        self.outputs = tuple(
            TensorSpec(name=output["name"], shape=tuple(output["shape"]), dtype="float32")
            for output in metadata["outputs"]
        )

    def run(self, feeds):
        import numpy as np
        return {spec.name: np.zeros(spec.shape, np.float32) for spec in self.outputs}
{runner}

class Backend(ExportBackend):
    contract = 1
    name = "{name}"
    help = "A test format."
    suffixes = (".fake",)

    def export(self, job, options):
        job.path.write_text(job.metadata(Precision.FP32).dumps())
        return Exported(Precision.FP32)

    def open(self, path, settings):
        return FakeRunner(path)

    def read_metadata(self, path):
        return json.loads(path.read_text())
{backend}
"""

NUMBERS = itertools.count()


@pytest.fixture
def install(tmp_path_factory, monkeypatch):
    """Install a plugin on sys.path by its entry point; returns its name, which is a new one each time."""

    def install(backend: str = "", runner: str = "") -> str:
        site, name = tmp_path_factory.mktemp("site"), f"fake{next(NUMBERS)}"
        source = SOURCE.replace("{backend}", textwrap.indent(textwrap.dedent(backend), "    "))
        install_plugin(
            site, name, source.replace("{runner}", textwrap.indent(textwrap.dedent(runner), "    "))
        )
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        registry.entries.cache_clear()
        return name

    yield install
    registry.entries.cache_clear()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """The content of a file that a plugin as above writes."""
    site, name = tmp_path_factory.mktemp("site"), f"fake{next(NUMBERS)}"
    install_plugin(site, name, SOURCE.replace("{backend}", "").replace("{runner}", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        registry.entries.cache_clear()
        import timmx

        output = site / "model.fake"
        timmx.export(name, "test_resnet", output=output, verify=False)
    registry.entries.cache_clear()
    return output.read_text()


def method(name: str, body: str) -> str:
    parameters = {
        "output_suffix": "options",
        "extra_outputs": "options, output",
        "source_artifact": "options",
        "check_environment": "request=None, options=None",
        "validate": "request, options",
        "export": "job, options",
        "open": "path, settings",
        "open_exported": "path, options, settings",
        "snippet": "path, metadata, language",
        "create_command": "",
        "run": "feeds",
        "close": "",
    }.get(name, "path")
    return f"def {name}(self{', ' if parameters else ''}{parameters}):\n    {body}\n"


EXPORT = ("{name}", "test_resnet", "-o", "out.fake", "--no-verify")
REACH = {
    "create_command": EXPORT,
    "extra_outputs": ("export", "test_resnet", "--to", "{name}", "-o", "out", "--no-verify"),
    "source_artifact": EXPORT,
    "output_suffix": EXPORT,
    "validate": EXPORT,
    "check_environment": EXPORT,
    "export": EXPORT,
    "open_exported": EXPORT[:-1],
    "read_metadata": ("inspect", "model.fake"),
    "inspect": ("inspect", "model.fake"),
    "files": ("inspect", "model.fake"),
    "snippet": ("inspect", "model.fake", "--snippet", "python"),
    "open": ("predict", "model.fake", "photo.png"),
    "run": ("predict", "model.fake", "photo.png"),
    "close": ("predict", "model.fake", "photo.png"),
}
"""The command that calls each method of a backend, and of its runner."""

OF_RUNNER = ("run", "close")

ENDS = {
    "sys.exit()": "called sys.exit()",
    "sys.exit('over')": "called sys.exit('over')",
    "os._exit(0)": "called os._exit(0)",
}


@pytest.fixture
def run(install, run_timmx, tmp_path, artifact):
    """Run the command that reaches a method, with a body for it: the result and the plugin's name."""

    def run(reached: str, body: str, *extra: str):
        fault = method(reached, body)
        name = install(runner=fault) if reached in OF_RUNNER else install(backend=fault)
        (tmp_path / "model.fake").write_text(artifact)
        Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
        done = run_timmx(*(word.format(name=name) for word in REACH[reached]), *extra)
        return done, name

    return run


def check_names_the_plugin(done, name: str, fault: str) -> None:
    assert done.stderr.count("\n") >= 2, done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith(f"error: internal error in the backend {name} (timmx-{name} 1.2.3): {fault}")
    assert hint == "hint: report it to the backend's authors"
    assert "Traceback" not in done.stderr
    assert done.exit_code == 1


@pytest.mark.parametrize("reached", REACH)
@pytest.mark.parametrize("body", ENDS)
def test_a_method_that_ends_the_process_is_named(reached, body, run, tmp_path):
    """A plugin that ended the process ended it with exit code 0, and nothing was written."""
    real = os._exit
    done, name = run(reached, body)
    check_names_the_plugin(done, name, f"{reached} {ENDS[body]}")
    assert os._exit is real
    assert not (tmp_path / "out.fake").exists()


@pytest.mark.parametrize("reached", [name for name in REACH if name != "run"])
def test_a_method_that_raises_is_named(reached, run):
    done, name = run(reached, "raise RuntimeError('inside\\nout \\x1b[2J')")
    check_names_the_plugin(done, name, f"{reached} raised RuntimeError: inside out \\x1b[2J")


def test_a_runtime_that_raises_is_an_error_of_the_file(run):
    """Runtimes raise any exception for a file that they cannot run."""
    done, _ = run("run", "raise RuntimeError('inside out')")
    assert done.exit_code == 2
    assert "model.fake fails at batch size 1: RuntimeError: inside out" in done.stderr


WRONG = [
    ("create_command", "return None", "create_command returned None instead of a function"),
    (
        "create_command",
        "return lambda model: None",
        "create_command returned a function instead of a function whose parameter `model` is Annotated",
    ),
    ("extra_outputs", "return 'a.onnx'", "extra_outputs returned 'a.onnx' instead of Paths"),
    (
        "source_artifact",
        "return 'model.onnx'",
        "source_artifact returned 'model.onnx' instead of a Path or None",
    ),
    ("output_suffix", "return ''", "output_suffix returned '' instead of a suffix"),
    ("output_suffix", "return None", "output_suffix returned None instead of a suffix"),
    ("output_suffix", "return '/../x'", "output_suffix returned '/../x' instead of a suffix"),
    ("check_environment", "return None", "check_environment returned None instead of a tuple of Problem"),
    ("check_environment", "return ['no']", "check_environment returned a list instead of a tuple of Problem"),
    ("export", "pass", "export returned None instead of Exported(precision, notes)"),
    ("export", "return Exported(Precision.FP32, (1,))", "export returned an Exported instead of Exported("),
    ("export", "return Exported('fp32')", "export raised TypeError: Exported takes a Precision"),
    (
        "export",
        "job.metadata(Precision.FP32, fact=object()).dumps()",
        "export raised TypeError: Object of type",
    ),
    ("open_exported", "return None", "open_exported returned None instead of a Runner"),
    ("read_metadata", "return None", "read_metadata returned None instead of a dict of JSON values"),
    ("read_metadata", "return [1]", "read_metadata returned a list instead of a dict of JSON values"),
    (
        "read_metadata",
        "return {'schema': {1}}",
        "read_metadata returned a dict instead of a dict of JSON values (",
    ),
    (
        "read_metadata",
        "a = {}; a['a'] = a; return a",
        "read_metadata returned a dict instead of a dict of JSON v",
    ),
    ("inspect", "return None", "inspect returned None instead of a dict of JSON values"),
    (
        "inspect",
        "return {'operations': ['Conv']}",
        "inspect returned a dict instead of a dict whose `operations`",
    ),
    ("inspect", "return {'inputs': ['x']}", "inspect returned a dict instead of a dict whose `inputs`"),
    ("inspect", "return {'x': path}", "inspect returned a dict instead of a dict of JSON values (TypeError"),
    ("files", "return None", "files returned None instead of a tuple of paths"),
    ("files", "return ()", "files returned () instead of a tuple of paths"),
    ("files", "return (str(path),)", "files returned a tuple instead of a tuple of paths"),
    ("snippet", "return 'code'", "snippet returned 'code' instead of a Snippet or None"),
    (
        "snippet",
        "return Snippet(run='x')",
        "snippet returned a Snippet instead of a Snippet whose `run` is a tuple",
    ),
    ("open", "return None", "open returned None instead of a Runner"),
    ("open", "return object.__new__(FakeRunner)", "open raised AttributeError: 'FakeRunner' object has no"),
    (
        "open",
        "runner = FakeRunner(path); runner.outputs = (); return runner",
        "open returned a FakeRunner instead of a Runner whose `outputs` are",
    ),
    ("run", "return None", "run returned None instead of a dict of numpy arrays by name"),
    ("run", "return {'output': [1]}", "run returned a dict instead of a dict of numpy arrays by name"),
]


@pytest.mark.parametrize(("reached", "body", "fault"), WRONG)
def test_a_method_that_returns_something_else_is_named(reached, body, fault, run, tmp_path):
    done, name = run(reached, body)
    check_names_the_plugin(done, name, fault)
    assert not (tmp_path / "out.fake").exists()


@pytest.mark.parametrize(
    ("reached", "error"),
    [("validate", "ConfigurationError"), ("export", "UnsupportedError"), ("open", "ArtifactError")],
)
def test_an_error_that_a_user_can_fix_passes(reached, error, run):
    done, _ = run(reached, f"raise {error}('this does not go', hint='try that')")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-2:] == ["error: this does not go", "hint: try that"]


def test_debug_shows_the_traceback_of_the_plugin(run):
    done, name = run("export", "raise RuntimeError('inside out')", "--debug")
    assert done.exit_code == 1
    assert "raise RuntimeError('inside out')" in done.stderr
    assert f"internal error in the backend {name}" in done.stderr


def test_json_has_the_error_of_the_plugin(run):
    done, name = run("inspect", "return None", "--json")
    assert json.loads(done.stdout)["error"] == {
        "type": "PluginError",
        "message": f"internal error in the backend {name} (timmx-{name} 1.2.3): "
        "inspect returned None instead of a dict of JSON values",
        "hint": "report it to the backend's authors",
    }


def test_a_full_disk_is_not_the_error_of_the_plugin(run):
    done, _ = run("export", "raise OSError(28, 'No space left on device', str(job.path))")
    assert done.exit_code == 2
    assert re.search("error: cannot write .*out.fake: No space left on device", done.stderr)


def test_a_command_of_the_plugins_own_is_watched(install, run_timmx):
    """An error of the core under it is not the plugin's, and an error of its own is."""
    body = """
    def create_command(self):
        import typer
        from typing import Annotated
        command = super().create_command()
        def own(model: Annotated[str, typer.Argument()], output: Annotated[str, typer.Option()] = "out.fake"):
            if model == "mine":
                {fault}
            return command(model=model, output=output)
        return own
    """
    for fault, words in (
        ("raise ValueError('mine')", "raised ValueError: mine"),
        ("sys.exit()", "called sys.exit()"),
        ("return None", "returned None instead of an ExportResult"),
    ):
        name = install(backend=body.replace("{fault}", fault))
        done = run_timmx(name, "mine")
        check_names_the_plugin(done, name, f"the function of create_command {words}")
        done = run_timmx(name, "resnt18")
        assert done.exit_code == 2
        assert "resnt18" in done.stderr


def test_a_plugin_catches_its_own_errors(install, artifact, tmp_path):
    """Between the methods of a plugin nothing is changed."""
    name = install(
        backend="""
        def open(self, path, settings):
            try:
                self.files(path)
            except KeyError:
                return FakeRunner(path)

        def files(self, path):
            raise KeyError(path)
        """
    )
    path = tmp_path / "model.fake"
    path.write_text(artifact)
    backend = registry.load(name)
    with backend.open(path, None) as runner:
        assert type(runner).__name__ == "FakeRunner"
    with pytest.raises(PluginError, match="files raised KeyError"):
        backend.files(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_the_plugin_forks_ends_as_usual(run):
    body = """if True:
        child = os.fork()
        if not child:
            os._exit(7)
        raise ConfigurationError(f"the child ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
    """
    done, _ = run("validate", body)
    assert "the child ended with 7" in done.stderr


BAD_ATTRIBUTES = {
    "suffixes = ()": "its `suffixes` is (), and must be a tuple of suffixes",
    "suffixes = ('',)": "its `suffixes` is a tuple, and must be a tuple of suffixes",
    "suffixes = '.fake'": "its `suffixes` is '.fake', and must be a tuple of suffixes",
    "options = None": "its `options` is None, and must be a dataclass",
    "capabilities = {}": "its `capabilities` is {}, and must be a Capabilities",
    "toolchain = (1,)": "its `toolchain` is a tuple, and must be a tuple of texts",
    "help = None": "its `help` is None, and must be a text",
}


@pytest.mark.parametrize("line", BAD_ATTRIBUTES)
def test_a_class_with_wrong_attributes_is_a_broken_backend(line, install, run_timmx):
    """As one that cannot be imported: no method is called."""
    name = install(backend=line)
    done = run_timmx(name, "test_resnet")
    assert done.exit_code == 2
    assert f"error: backend {name} (timmx-{name} 1.2.3) is broken: {BAD_ATTRIBUTES[line]}" in done.stderr


def test_a_module_that_ends_the_process_is_a_broken_backend(tmp_path_factory, run_timmx, monkeypatch):
    site, name = tmp_path_factory.mktemp("site"), f"fake{next(NUMBERS)}"
    install_plugin(site, name, "import os; os._exit(0)\n")
    monkeypatch.syspath_prepend(str(site))
    registry.entries.cache_clear()
    done = run_timmx(name, "test_resnet")
    registry.entries.cache_clear()
    assert done.exit_code == 2
    assert f"error: backend {name} (timmx-{name} 1.2.3) is broken: importing it raised" in done.stderr


@pytest.mark.parametrize(
    ("body", "fault"),
    [("os._exit(0)", "called os._exit(0)"), ("return None", "returned None instead of a tuple")],
)
def test_a_plugin_whose_check_of_the_environment_is_broken_is_a_row(body, fault, install):
    name = install(backend=method("check_environment", body))
    row = probe._child(f"timmx-{name}:{name}")
    assert row["state"] is registry.State.BROKEN
    assert f"check_environment {fault}" in row["reason"]


def test_another_thread_never_ends_an_export_with_success():
    """It cannot be stopped from here, but the exit code is not 0."""
    code = (
        "import os, threading, time\n"
        "from timmx.registry.boundary import watching_exits\n"
        "with watching_exits():\n"
        "    threading.Thread(target=os._exit, args=(0,)).start()\n"
        "    time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal")
def test_sigterm_in_a_method_is_not_the_plugins(run):
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        done, _ = run("validate", "import signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.exit_code == 143
    assert "internal error" not in done.stderr


GOOD_METADATA = b"Metadata-Version: 2.1\nName: %b\nVersion: 1.0\nSummary: A test.\n"
DAMAGE = {
    "lines": ("entry_points.txt", b"[console_scripts]\nno equals sign\n"),
    "latin": ("entry_points.txt", b"[timmx.backends]\nna\xefve = timmx_naive:Backend\n"),
    "metadata": ("METADATA", GOOD_METADATA % b"metadata" + b"Author: Andr\xe9\n"),
}


def install_damaged(site, name: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_bytes(GOOD_METADATA % name.encode())
    (info / "entry_points.txt").write_bytes(
        b"[timmx.backends]\nx = timmx_x:Backend\n" if name == "metadata" else b""
    )
    file, content = DAMAGE[name]
    (info / file).write_bytes(content)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_distribution_is_skipped(name, tmp_path, monkeypatch):
    registry.entries.cache_clear()
    others = registry.entries()
    install_damaged(tmp_path, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.entries.cache_clear()
    try:
        assert registry.entries() == others
        rows = {row.distribution: row for row in registry.unreadable()}
    finally:
        registry.entries.cache_clear()
    assert rows[name].state is registry.State.BROKEN
    assert rows[name].reason.startswith(f"{DAMAGE[name][0]} in {tmp_path}")


def test_backends_shows_damaged_distributions(tmp_path, monkeypatch, run_timmx):
    for name in DAMAGE:
        install_damaged(tmp_path / "site", name)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(probe, "_probe", lambda entry, *_: entry)
    shown = run_timmx("backends")
    assert shown.exit_code == 0
    for name, (file, _) in DAMAGE.items():
        assert f"{name}: {file} in " in shown.stdout
    monkeypatch.setenv("TIMMX_STRICT", "1")
    with pytest.raises(BackendError, match=r"lines is broken: entry_points\.txt in"):
        registry.load("torch-export")
    assert run_timmx("backends").exit_code == 2


def test_help_works_with_damaged_distributions(tmp_path):
    for name in DAMAGE:
        install_damaged(tmp_path, name)
    shown = timmx("--help", site=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "torch-export" in shown.stdout


@pytest.mark.slow
def test_torch_and_timm_are_imported_with_damaged_distributions(tmp_path):
    """Both look for entry points of all distributions when they are imported."""
    for name in DAMAGE:
        install_damaged(tmp_path, name)
    shown = timmx("info", "test_resnet", site=tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_doctor_reports_a_damaged_distribution(tmp_path, monkeypatch):
    from timmx.registry import doctor

    install_damaged(tmp_path, "lines")
    install_damaged(tmp_path, "metadata")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "probe_backends", registry.unreadable)
    messages = [problem.message for problem in doctor.examine().problems]
    assert any(
        message.startswith("distribution lines is broken: entry_points.txt in") for message in messages
    )
    assert any(message.startswith("distribution metadata is broken: METADATA in") for message in messages)


def test_a_backend_that_prints_bytes_that_are_not_utf8_is_reported(tmp_path, monkeypatch):
    source = "import os\nos.write(2, b'\\xff\\xfe last words\\n')\nos.kill(os.getpid(), 9)\n"
    install_plugin(tmp_path, "noisy", source)
    monkeypatch.setenv("PYTHONPATH", on_path(tmp_path))
    facts = {"name": "noisy", "distribution": "timmx-noisy", "version": "1.2.3", "summary": "", "target": ""}
    row = probe._run_child(registry.BackendEntry(**facts), 60, set())
    assert row["state"] == registry.State.BROKEN
    assert row["reason"] == "loading it ended the process with signal 9: \ufffd\ufffd last words."
