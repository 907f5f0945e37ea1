"""The tiers of the tests, and what all tests use: trained and awakened models, the command line in this process.

`uv run pytest` runs the first tier: tests that request none of the fixtures `export`, `process` and `browser`, directly
or through another fixture. A test that does is marked with that name, and `pytest -m "not slow"` runs it too. A test
of the first tier that exports a model or starts a Python process fails.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from misbehaving import SOURCE as MISBEHAVING
from plugins import install_plugin
from typer.testing import CliRunner

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for tiny models, more threads only wait for each other

# As in `timmx`: the converters' objects are not freed, and collecting millions of them takes a fifth of the time.
gc.set_threshold(100_000, 20, 50)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page
    from timmx.report import Report

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"


TIERS = ("export", "process", "browser")
"""Fixtures that put a test into the second tier; `slow` marks the third."""

_requested: frozenset[str] | None = None
"""The fixtures of the running test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for tier in _tiers(item):
            item.add_marker(tier)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    global _requested
    outer, _requested = _requested, frozenset(getattr(item, "fixturenames", ()))
    try:
        return (yield)
    finally:
        _requested = outer


def _tiers(item: pytest.Item) -> set[str]:
    return set(TIERS).intersection(getattr(item, "fixturenames", ()))


def _may_start_processes() -> bool:
    return _requested is None or bool({*TIERS, "fresh_python"} & _requested)


def _refuse_undeclared_processes(event: str, arguments: tuple) -> None:
    if event == "subprocess.Popen" and not _may_start_processes():
        command = [str(part) for part in arguments[1]]
        assert sys.executable not in command, f"request the fixture `process` to run {' '.join(command)}"


@pytest.fixture(scope="session", autouse=True)
def _processes_are_declared():
    """Fail a test that starts a process with multiprocessing, which has no audit event, without `process`."""
    start = BaseProcess.start

    def start_if_declared(self):
        assert _may_start_processes(), "request the fixture `process` to start a process"
        start(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseProcess, "start", start_if_declared)
        yield


@pytest.fixture(scope="session", autouse=True)
def _exports_are_declared():
    """Fail a test that converts a model and does not request the fixture `export`."""
    from timmx.exporting.job import Job

    create = Job.__init__

    def create_if_declared(self, *arguments, **options):
        list_composed_operators_once()
        keep_garbage_after_conversions()
        assert _requested is None or {"export", "one_export"} & _requested, (
            "request the fixture `export` to export a model"
        )
        create(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Job, "__init__", create_if_declared)
        yield


@functools.cache
def list_composed_operators_once() -> None:
    """Let PyTorch list the operators that it composes of others once, instead of once per namespace in each export."""
    import torch._export.utils as composed

    list_all, listed = composed._materialize_cpp_cia_ops, set[int]()

    def list_once() -> None:
        if len(sys.modules) not in listed:
            listed.add(len(sys.modules))
            list_all()

    composed._materialize_cpp_cia_ops = list_once


def keep_garbage_after_conversions() -> None:
    """Stop coremltools, once it is imported, from collecting garbage after each conversion, of millions of objects."""
    entry = sys.modules.get("coremltools.converters._converters_entry")
    if entry is not None:
        entry.gc = SimpleNamespace(collect=lambda: 0)


sys.addaudithook(_refuse_undeclared_processes)


@pytest.fixture(scope="session")
def process():
    """Run a command in a new process: like `subprocess.run`, with text, captured and unchecked by default."""

    def run(command, **options) -> subprocess.CompletedProcess:
        return subprocess.run(command, **{"text": True, "capture_output": True, "check": False} | options)

    return run


@pytest.fixture(scope="session", autouse=True)
def _bench_workers_are_forked():
    """Fork the workers of `timmx bench`, which would import torch again: see `forks`."""
    import forks
    from timmx.tools.bench import process as workers

    names = {name: getattr(subprocess, name) for name in ("PIPE", "TimeoutExpired")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "subprocess", SimpleNamespace(Popen=forks.Popen, **names))
        yield


@pytest.fixture(scope="module")
def new_workers(process):
    """Start each worker of `timmx bench` as a new Python process, as users do."""
    from timmx.tools.bench import process as workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "subprocess", subprocess)
        yield


@pytest.fixture(scope="session")
def export():
    """Export with a backend's command: (backend, model, output, **options) -> ExportResult."""

    def run(backend: str, model, output: Path, **options):
        from timmx.registry import load

        return load(backend).create_command()(model=model, output=output, **options)

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium, since playwright does not include one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser to look at pages with: none of {', '.join(names)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def one_export():
    """Permit exports in a test of the first tier: `tests/test_backends.py` has one for each backend."""


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_over():
    """Free the cycles of a test file once, and exclude the remaining objects from later collections."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory):
    """Make a folder once for all workers: (name, fill) -> path, where `fill` writes into the empty folder."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make(name: str, fill) -> Path:
        folder = root / name
        with FileLock(root / f"{name}.lock"):
            if not folder.is_dir():
                unfinished = root / f"{name}.unfinished"
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def digits(shared) -> str:
    """The committed model, trained on handwritten digits, as `local-dir:`, with two samples of each class.

    Verification on all 500 samples takes seconds in each export; `tests/trt/test_typed.py` uses them all.
    """

    def fill(folder: Path) -> None:
        (folder / "digits").mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(DIGITS / name, folder / "digits")
        for path in sorted((DIGITS / "samples").glob("*")):
            (folder / "digits" / "samples" / path.name).mkdir(parents=True)
            for image in sorted(path.iterdir())[:2]:
                shutil.copy(image, folder / "digits" / "samples" / path.name)

    return f"local-dir:{shared('model', fill) / 'digits'}"


@pytest.fixture(scope="session")
def exported_digits(export, digits: str, shared):
    """The digits model as a verified file: (backend, **options) -> path. All tests share it, and must not change it.

    Next to it, `verification.json` has the report of its verification.
    """
    from timmx.registry import load
    from timmx.testing.base import output_suffix

    def make(backend: str, **options) -> Path:
        name = f"digits{output_suffix(load(backend), options)}"
        key = hashlib.sha256(repr((backend, sorted(options.items()))).encode()).hexdigest()[:16]

        def fill(folder: Path) -> None:
            result = export(backend, digits, folder / name, **options)
            (folder / "verification.json").write_text(json.dumps(result.verification.to_dict()))

        return shared(f"digits-{key}", fill) / name

    return make


@pytest.fixture(scope="session")
def awakened(tmp_path_factory: pytest.TempPathFactory):
    """Checkpoints of random-weight models whose outputs vary with the input: name -> file."""
    folder = tmp_path_factory.mktemp("awakened")
    paths: dict[tuple, Path] = {}

    def make(name: str, **model_options) -> Path:
        key = (name, *sorted(model_options.items()))
        if key not in paths:
            import timm
            import torch
            from safetensors.torch import save_model
            from timmx.testing import awaken

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = awaken(timm.create_model(name, **model_options))
            paths[key] = folder / f"{name}-{len(paths)}.safetensors"
            save_model(model, str(paths[key]))
        return paths[key]

    return make


@pytest.fixture(scope="module")
def pages(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """`(open, trouble)`: `open` opens a report in the browser, and errors on its page are added to `trouble`."""
    from timmx.report import write_report

    folder = tmp_path_factory.mktemp("reports")
    contexts: list[BrowserContext] = []
    trouble: list[str] = []

    def show(report: Report, **options) -> Page:
        path = folder / f"report-{len(contexts)}.html"
        write_report(report, path)
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda request: trouble.append(f"request: {request.url[:200]}"))
        page.goto(path.as_uri())
        trouble.remove(f"request: {path.as_uri()}")
        return page

    yield show, trouble
    for context in contexts:
        context.close()


@pytest.fixture
def show(pages) -> Iterator:
    """`show(report, **context_options)` opens a report in the browser; errors on the page fail the test."""
    open_page, trouble = pages
    yield open_page
    errors = list(trouble)
    trouble.clear()
    assert errors == []


@pytest.fixture
def nest():
    """Make a chain of 1,200 folders in a folder, too deep for recursive functions: returns the folder."""
    chains: list[list[Path]] = []

    def make(folder: Path) -> Path:
        chain = [folder / "/".join("d" * count) for count in range(1, 1201)]
        folder.mkdir(parents=True, exist_ok=True)
        for path in chain:
            path.mkdir()
        chains.append(chain)
        return folder

    yield make
    for chain in chains:  # `shutil.rmtree`, which pytest uses, calls itself
        for path in reversed(chain):
            path.rmdir()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit that is large, colored and not square."""
    from PIL import Image

    digit = Image.open(min((DIGITS / "samples" / "3").glob("*.png"))).convert("RGB")
    large = digit.resize((211, 157), Image.Resampling.BICUBIC)
    large.putpixel((3, 3), (250, 20, 90))
    path = tmp_path_factory.mktemp("image") / "large.png"
    large.save(path)
    return path


@pytest.fixture
def run_timmx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`timmx ARGS` in this process, in an empty folder: returns exit_code, stdout, stderr."""
    from timmx.cli.application import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("timmx.exporting.parallel.usable_cores", lambda: 1)  # no child processes

    def run(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run


@pytest.fixture
def fake(tmp_path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the format of `misbehaving.py`, installed in this process and in those that it starts."""
    from timmx import registry

    site = tmp_path / "site"
    install_plugin(site, "fake", MISBEHAVING, requires=("timmx-core",))
    monkeypatch.syspath_prepend(str(site))
    registry.entries.cache_clear()
    yield "fake"
    registry.entries.cache_clear()
