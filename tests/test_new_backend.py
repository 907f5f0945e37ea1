"""`timmx new-backend`: the files that it writes, invalid arguments, and that the project passes the kit."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from plugins import install_plugin, timmx
from projects import install_project, run_tests
from timmx.cli.new_backend import NewBackend, _core_range, write_project

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "packages" / "timmx-core"


@pytest.mark.parametrize("name", ["my-format", "x", "a1-b2", "class", "test-1x"])
def test_a_project_can_have_any_valid_name(run_timmx, tmp_path: Path, name: str):
    done = run_timmx("new-backend", name)
    assert done.exit_code == 0, done.output
    project = tmp_path / f"timmx-{name}"
    package = f"timmx_{name.replace('-', '_')}"
    assert f"uv run timmx {name} " in done.stdout
    facts = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    assert facts["project"]["name"] == f"timmx-{name}"
    ((command, target),) = facts["project"]["entry-points"]["timmx.backends"].items()
    assert command == name
    module, _, backend = target.partition(":")
    assert module == f"{package}.plugin"
    assert package.isidentifier()
    plugin = ast.parse((project / "src" / package / "plugin.py").read_text("utf-8"))
    (cls,) = [node for node in plugin.body if isinstance(node, ast.ClassDef) and node.name == backend]
    stated = {node.targets[0].id: node.value for node in cls.body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(stated["name"]) == name
    assert ast.literal_eval(stated["contract"]) == 1
    files = [path for path in project.rglob("*") if path.is_file()]
    for path in files:
        text = path.read_text("utf-8")
        assert "$" not in text
        assert f"  {path.relative_to(project)}\n" in done.stdout
        if path.suffix == ".py":
            compile(text, path, "exec")
    assert {"README.md", "LICENSE", "py.typed", "test_conformance.py"} <= {path.name for path in files}


def test_json_lists_the_files(run_timmx, tmp_path: Path):
    done = run_timmx("new-backend", "foo", "--dir", "made here/foo", "--json")
    facts = json.loads(done.stdout)
    assert facts["path"] == "made here/foo"
    assert all((tmp_path / facts["path"] / name).is_file() for name in facts["files"])
    assert facts["next"] == [
        "cd 'made here/foo'",
        "uv sync",
        "uv run pytest",
        "uv run timmx foo resnet18 --pretrained",
    ]


def test_a_suffix_of_our_own_formats_is_not_reused(run_timmx, tmp_path: Path):
    """`timmx.open` would use our backend for such a file."""
    run_timmx("new-backend", "pt2")
    assert 'suffixes = (".timmx-pt2",)' in (tmp_path / "timmx-pt2/src/timmx_pt2/plugin.py").read_text("utf-8")


def test_suffix_name_and_companions_are_in_the_project(run_timmx, tmp_path: Path):
    words = ["--suffix", ".pdmodel", "--name", "Paddle", "--companion", ".pdiparams", "--companion", ".map"]
    assert run_timmx("new-backend", "paddle", *words).exit_code == 0
    project = tmp_path / "timmx-paddle"
    plugin = (project / "src/timmx_paddle/plugin.py").read_text("utf-8")
    assert 'suffixes = (".pdmodel",)' in plugin
    assert 'help = "Export to the Paddle format."' in plugin
    assert "class PaddleBackend(ExportBackend)" in plugin
    assert 'for suffix in (".pdiparams", ".map")' in (project / "src/timmx_paddle/archive.py").read_text(
        "utf-8"
    )
    assert "class TestPaddle(" in (project / "tests/test_conformance.py").read_text("utf-8")
    facts = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    assert facts["project"]["description"] == "Export to the Paddle format."
    assert list(facts["project"]["entry-points"]["timmx.backends"]) == ["paddle"]
    readme = (project / "README.md").read_text("utf-8")
    assert "into a `.pdmodel` file with a `.pdiparams` file and a `.map` file next to it" in readme


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["--suffix", "xml"],
            "--suffix 'xml' is invalid: a suffix is a dot and lower-case letters or digits",
        ),
        (["--suffix", ".XML"], "--suffix '.XML' is invalid"),
        (["--suffix", ".onnx"], "is already used by one of timmx's own backends"),
        (["--companion", "bin"], "--companion 'bin' is invalid"),
        (
            ["--suffix", ".pdmodel", "--companion", ".pdmodel"],
            "the suffixes .pdmodel, .pdmodel are not unique",
        ),
        (["--name", 'a"b'], "hint: use the format's usual spelling"),
    ],
)
def test_suffixes_and_names_that_are_refused(run_timmx, tmp_path: Path, words: list[str], reason: str):
    done = run_timmx("new-backend", "paddle", *words)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert not list(tmp_path.iterdir())


def test_generated_files_are_within_88_columns(tmp_path: Path):
    for new in (
        NewBackend(name="my-format"),
        NewBackend(name="paddle", suffix=".pdmodel", companions=(".pdiparams",)),
    ):
        project = write_project(new, tmp_path / new.name)
        for path in project.folder.rglob("*.py"):
            assert max(map(len, path.read_text("utf-8").splitlines()), default=0) <= 88, path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("My_Format", "not consist of lower-case words joined by hyphens\nhint: try my-format"),
        ("a--b", "hint: try a-b"),
        ("3d", "not consist of lower-case words"),
        ("", "not consist of lower-case words"),
        ("List", "not consist of lower-case words joined by hyphens\nhint: choose another name"),
        ("verify", "is a command of timmx itself"),
        ("demo", "is a command of timmx itself"),
        ("card", "is a command of timmx itself"),
        ("onnx", "timmx-onnx"),
        ("coreml", "timmx-coreml has a backend of that name"),
        ("core", "timmx-core, which is installed already"),
        ("a" * 300, "File name too long"),
    ],
)
def test_names_that_are_refused(run_timmx, tmp_path: Path, name: str, reason: str):
    done = run_timmx("new-backend", name)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_name_of_an_installed_backend_is_refused_without_torch(process, tmp_path: Path):
    install_plugin(tmp_path / "site", "odd", source="import torch\n")
    done = timmx("new-backend", "odd", site=tmp_path / "site", cwd=tmp_path)
    assert done.returncode == 2
    assert "timmx-odd 1.2.3 has a backend of that name" in done.stderr


def test_nothing_heavy_is_imported(process, tmp_path: Path):
    code = (
        "import sys; from timmx.cli.application import app; app(['new-backend', 'foo'], standalone_mode=False); "
        "print({'torch', 'timm', 'numpy'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, check=True
    )
    assert done.stderr.strip() == "set()"


def test_a_folder_that_is_not_empty_is_left_unchanged(run_timmx, tmp_path: Path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for taken in ("taken", "file"):
        done = run_timmx("new-backend", "foo", "--dir", taken)
        assert done.exit_code == 2
        assert "hint: name another folder with --dir" in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine.txt", "taken"]


def test_an_empty_folder_is_filled(run_timmx, tmp_path: Path):
    assert run_timmx("new-backend", "foo", "--dir", ".").exit_code == 0
    assert (tmp_path / "pyproject.toml").is_file()


@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_nothing_behind(process, tmp_path: Path, existed: bool):
    """The disk is full in the middle of a file, after others were written."""
    pytest.importorskip("resource")
    folder = tmp_path / "new" / "foo"
    if existed:
        folder.mkdir(parents=True)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); "
        "from timmx.cli.application import app; app()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "new-backend", "foo", "--dir", folder],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert list(tmp_path.rglob("*")) == ([folder.parent, folder] if existed else [])


def test_the_core_is_required_by_range_and_found_where_it_is_installed(tmp_path: Path):
    write_project(NewBackend(name="foo"), tmp_path / "foo")
    facts = tomllib.loads((tmp_path / "foo" / "pyproject.toml").read_text("utf-8"))
    stated = {item.name: item for item in map(Requirement, facts["project"]["dependencies"])}
    core = tomllib.loads((CORE / "pyproject.toml").read_text("utf-8"))["project"]
    assert core["version"] in stated.pop("timmx-core").specifier
    own = {item.name: item for item in map(Requirement, core["dependencies"])}
    for name, requirement in stated.items():
        assert set(requirement.specifier) <= set(own[name].specifier), f"the core asks for {own[name]}"
    assert facts["tool"]["uv"]["sources"] == {"timmx-core": {"path": str(CORE), "editable": True}}


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("0.1.0", ">=0.1,<0.2"),
        ("0.3.2", ">=0.3,<0.4"),
        ("0.2.0rc1", ">=0.2.0rc1,<0.3"),
        ("1.4.2", ">=1.4,<2"),
    ],
)
def test_the_version_range_is_limited_to_one_contract(version: str, wanted: str):
    assert _core_range(version) == wanted


def test_a_new_project_passes_checks_of_the_kit(process, tmp_path: Path):
    """Some of each kind; `.ci/third_party.py` runs all of them."""
    project = write_project(NewBackend(name="my-format"), tmp_path / "project")
    install_project(project.folder, tmp_path / "site")
    checks = (
        "lost or entry_point or options or import or (test_dynamic_batch and resnet) or read_back or damaged"
    )
    assert " passed" in run_tests(project.folder, tmp_path / "site", "-k", checks)


def test_a_new_project_with_companions_passes_checks_of_the_kit(process, tmp_path: Path):
    new = NewBackend(name="paddle", title="Paddle", suffix=".pdmodel", companions=(".pdiparams",))
    project = write_project(new, tmp_path / "project")
    install_project(project.folder, tmp_path / "site")
    checks = "lost or suffixes or (test_export and resnet) or failure or same_bytes or elsewhere or damaged or second"
    assert " passed" in run_tests(project.folder, tmp_path / "site", "-k", checks)
