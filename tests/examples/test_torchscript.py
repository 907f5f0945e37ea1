"""The example of a third-party backend works, and docs/backend-authors.md shows its files unchanged."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from projects import install_project, run_tests
from timmx.registry import discovery as registry

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "timmx-torchscript"
GUIDE = ROOT / "docs" / "backend-authors.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install_project(EXAMPLE, folder)
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch):
    """The backend, installed in addition to ours for one test."""
    monkeypatch.syspath_prepend(site)
    registry.entries.cache_clear()
    yield
    registry.entries.cache_clear()


def test_digits_are_exported_by_the_command(export, installed, run_timmx, tmp_path: Path, digits: str):
    path = tmp_path / "digits.torchscript"
    done = run_timmx("torchscript", digits, "-o", path, "--dynamic-batch", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["verification"]["status"] == "verified"
    assert result["verification"]["batch_sizes"] == [1, 2, 3]
    assert result["metadata"]["versions"]["timmx-torchscript"] == "0.1.0"
    module = torch.jit.load(path)
    for batch in (1, 4):
        assert module(torch.rand(batch, 3, 64, 64)).shape == (batch, 10)


@pytest.mark.slow
def test_its_own_tests_pass(site: Path):
    assert re.match(r"\d+ passed, \d+ skipped", run_tests(EXAMPLE, site))


def test_the_guide_shows_every_file_unchanged():
    shown = re.findall(
        r"^`([^`\n]+)`:\n\n```\w+\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    files = dict(shown)
    assert len(files) == len(shown), "each file is shown once"
    for name, text in files.items():
        assert text == (EXAMPLE / name).read_text("utf-8"), f"{name} is another in the guide"
    sources = {str(path.relative_to(EXAMPLE)) for path in EXAMPLE.glob("src/**/*.py")}
    assert files.keys() == {*sources, "pyproject.toml", "tests/test_conformance.py"}


def test_the_other_examples_of_the_guide_are_python():
    for block in re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        compile(block, "guide", "exec")


def test_the_example_is_not_part_of_the_workspace():
    """It is a third-party distribution: it requires published packages, and no package here requires it."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))
    assert "uv" not in project["tool"]
    assert "torchscript" not in (ROOT / "pyproject.toml").read_text("utf-8")
    assert "torchscript" not in (
        ROOT / "packages/timmx-core/src/timmx/registry/known_backends.json"
    ).read_text("utf-8")
    assert not re.search(r"timmx-torchscript", (ROOT / "uv.lock").read_text("utf-8"))
    assert (EXAMPLE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
