"""Built as docs/architecture.md says: imports go down, help is light, the core names no format."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import importlib_metadata
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "packages" / "timmx-core" / "src" / "timmx"
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
SOURCES = sorted(path for package in PACKAGES for path in package.glob("src/**/*.py"))

LAYERS = (
    {"errors", "progress", "schema", "threads", "words"},
    {"contract"},
    {"coercion", "options", "registry"},
    {
        "artifact",
        "calibration",
        "capture",
        "devices",
        "edges",
        "images",
        "metadata",
        "model",
        "preprocess",
        "ranges",
        "records",
        "rewrites",
        "lowering",
        "samples",
        "snr",
        "verify",
    },
    {"session", "validation", "prepared"},
    {"pipeline"},
    {"command", "doctor", "opening", "probe"},
    {"report"},
    {"tools"},
    {"cli", "testing"},
    {"", "__main__"},
)
"""The core's modules from the ground up; "" is the package itself."""

UPWARD = {("contract", "command"), ("options", "model")}
"""The two steps up, both inside a function: a backend's command, the completion of model names."""

HEAVY = {"torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "coremltools"}


class Import(NamedTuple):
    module: str
    line: int
    types_only: bool
    in_function: bool


@pytest.mark.parametrize("path", [path for path in SOURCES if CORE in path.parents], ids=lambda p: p.name)
def test_core_imports_go_down(path: Path):
    own = layer_of(module_of(path))
    for found in imports(path):
        if found.types_only or found.module.split(".")[0] != "timmx":
            continue
        target = found.module.removeprefix("timmx").lstrip(".").split(".")[0]
        allowed_up = (module_of(path), target) in UPWARD and found.in_function
        assert layer_of(target) <= own or allowed_up, f"{path}:{found.line} imports {found.module}: upwards"


def test_the_documented_layers_are_those_of_the_test():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| [^|]+ \|$", text.split("## Layers")[1], re.MULTILINE)
    documented = [set(re.findall(r"`(?:timmx/)?([a-z_]+)(?:/|\.py)?`", row)) for row in rows[2:]]
    documented = [{"" if name == "__init__" else name for name in row} for row in documented if row]
    assert documented[: len(LAYERS)] == [set(layer) for layer in reversed(LAYERS)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_package_states_what_it_imports(path: Path):
    package = next(parent for parent in path.parents if parent in PACKAGES)
    own = next(package.glob("src/*")).name
    for found in imports(path):
        top = found.module.split(".")[0]
        if top == own or top in sys.stdlib_module_names:
            continue
        # One that is not here, such as NVIDIA's, is taken to be called as its module is.
        providers = {canonicalize_name(name) for name in distributions_by_module().get(top, (top,))}
        assert providers & stated_requirements(package), f"{path}:{found.line} imports {top}"


@pytest.mark.parametrize("path", [path for path in SOURCES if CORE in path.parents], ids=lambda p: p.name)
def test_the_core_names_no_format(path: Path):
    """Docstrings may give an example; code may not. What is known about formats stands in one data file.

    The conformance kit is left out: it names libraries that help must not import, and one is called as a format.
    """
    if CORE / "testing" in path.parents:
        return
    known = json.loads((CORE / "registry" / "known_backends.json").read_text("utf-8"))
    names = known.keys() | {facts["distribution"].replace("-", "_") for facts in known.values()}
    format_name = re.compile(rf"(?<![\w.-])(timmx-)?({'|'.join(sorted(names))})(?![\w-])")
    for node, text in strings_and_names(path):
        assert not format_name.search(text), f"{path}:{node.lineno} names a format: {text!r}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["onnx", "--help"],
        ["torch-export", "--help"],
        ["list", "--help"],
        ["onnx", "resnet18", "--no-such-option"],
        ["onnx", "resnet18", "--opset", "3"],
        ["onnx", "resnet18", "--mean", "0.5"],
        ["onnx", "resnet18", "-o", "resnet18.txt"],
        ["torch-export", "resnet18", "--dynamic-batch", "--batch-size", "1"],
        ["no-such-format", "resnet18"],
    ],
    ids=" ".join,
)
def test_help_and_refusals_import_nothing_heavy(arguments: list[str], tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "timmx", *arguments],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == (0 if arguments[-1] in ("--help", "--version") else 2)
    imported = set(re.findall(r"^import time:.*\| +(\w+)\S*$", done.stderr, re.MULTILINE))
    assert "typer" in imported
    assert not imported & HEAVY


def test_importing_timmx_imports_nothing_heavy():
    code = "import sys, timmx; timmx.backends(); timmx.__version__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & HEAVY


def test_tracked_files_name_no_machine_and_no_index():
    machine = re.compile(r"(?<![\w.~/}$-])/(root|work|home|Users|opt|tmp)/[\w.]+")
    index = re.compile(r"pypi[.](org|python)|pythonhoste[d]|--(extra-)?index-ur[l]|/simpl[e]\b")
    for path in tracked_files():
        if path.name == "uv.lock":  # uv writes them there
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            assert not machine.search(line), f"{path}:{number} names a path of one machine: {line.strip()}"
            assert not index.search(line), f"{path}:{number} names a package index: {line.strip()}"


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, absolute, one for each module that is named."""
    return _imports(ast.parse(path.read_text("utf-8")), types_only=False, in_function=False)


def _imports(node: ast.AST, types_only: bool, in_function: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        types, function = types_only, in_function
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            types = True
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = True
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, types, function)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                inside = (
                    CORE / child.module.removeprefix("timmx").lstrip(".").replace(".", "/")
                ) / alias.name
                is_module = child.module.startswith("timmx") and (
                    inside.is_dir() or inside.with_suffix(".py").is_file()
                )
                module = f"{child.module}.{alias.name}" if is_module else child.module
                yield Import(module, child.lineno, types, function)
        yield from _imports(child, types, function)


def module_of(path: Path) -> str:
    """The first part of a core module's name below `timmx`; "" for the package itself."""
    first = path.relative_to(CORE).with_suffix("").parts[0]
    return "" if first == "__init__" else first


def layer_of(module: str) -> int:
    for number, modules in enumerate(LAYERS):
        if module in modules:
            return number
    raise AssertionError(f"{module} is in no layer: give it one in docs/architecture.md and here")


def strings_and_names(path: Path) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """What a file's code says: its names and texts, without docstrings and comments."""
    tree = ast.parse(path.read_text("utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # docstrings, those of attributes too
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node, node.value
        elif isinstance(node, ast.Name):
            yield node, node.id
        elif isinstance(node, ast.Attribute):
            yield node, node.attr


@cache
def distributions_by_module() -> dict[str, list[str]]:
    ours = {
        next(package.glob("src/*")).name: [package.name] for package in PACKAGES
    }  # editable: no file list
    return dict(importlib_metadata.packages_distributions()) | ours


@cache
def stated_requirements(package: Path) -> frozenset[str]:
    project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
    stated = [*project["dependencies"], *itertools.chain(*project.get("optional-dependencies", {}).values())]
    return frozenset(canonicalize_name(Requirement(text).name) for text in stated)


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, text=True, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_every_source_file_is_on_the_map():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for path in SOURCES:
        if path.stem not in ("__init__", "__main__") and "testing" not in path.parts:
            assert path.stem in text, f"docs/architecture.md does not say what {path.name} is for"
