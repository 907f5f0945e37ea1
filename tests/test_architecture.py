"""Built as docs/architecture.md says: imports go down, help is light, the core names no format."""

from __future__ import annotations

import ast
import importlib
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
from timmx.registry import entries

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "packages" / "timmx-core" / "src" / "timmx"
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
SOURCES = sorted(path for package in PACKAGES for path in package.glob("src/**/*.py"))

ROOMS = (
    "plugin testing cli sweep tools.compare tools.bench tools.eval tools.predict tools.verify tools.snippets "
    "tools.inspect tools.subject report exporting processes verification artifact quantization capture inputs model "
    "registry contract base errors"
).split()
"""The core's rooms from the roof down: each imports from those behind it only."""

PUBLIC = {"timmx.plugin", "timmx.testing"}
"""What a backend may import of the core."""

BETWEEN_WHEELS = {("timmx_tensorrt", "timmx_onnx"), ("timmx_executorch", "timmx_coreml")}
"""Which of our backends builds on the public names of another."""

HEAVY = {"torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "coremltools"}


class Import(NamedTuple):
    """One name that a file imports, wherever in it: for types only and inside functions too.

    Attributes:
        module: where it is imported from; the submodule itself where the name is one.
        name: what is imported; empty for `import module`.
    """

    module: str
    name: str
    line: int


class Source(NamedTuple):
    """A Python file, or the stub that is a package's door.

    Attributes:
        module: its dotted name; a package and its stub have one name.
    """

    module: str
    path: Path
    text: str

    def imports(self, modules: frozenset[str]) -> Iterator[Import]:
        for module, name, line in _imports(self.text):
            inside = f"{module}.{name}"
            yield Import(inside, "", line) if name and inside in modules else Import(module, name, line)


@cache
def _imports(text: str) -> tuple[tuple[str, str, int], ...]:
    """Module, name and line of everything that a file imports."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            found += [(str(node.module), alias.name, node.lineno) for alias in node.names]
    return tuple(found)


@cache
def sources() -> list[Source]:
    """All files of all packages and of the example backend."""
    roots = [*(package / "src" for package in PACKAGES), ROOT / "examples" / "timmx-torchscript" / "src"]
    found = []
    for root in roots:
        for path in sorted([*root.glob("**/*.py"), *root.glob("**/*.pyi")]):
            parts = path.relative_to(root).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Source(module, path, path.read_text("utf-8")))
    return found


def violations(files: list[Source]) -> list[str]:
    """What of these files is not built as docs/architecture.md says, one line each."""
    modules = frozenset(source.module for source in files)
    doors = {
        source.module: {found.name for found in source.imports(modules)}
        for source in files
        if source.path.suffix == ".pyi"
    }
    lines = []
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for source in files:
        for found in source.imports(modules):
            if found.module in modules and found.module not in (source.module, "timmx"):
                graph[source.module].add(found.module)
            if reason := _refused(source, found, doors):
                lines.append(f"{source.path}:{found.line} imports {found.module} {found.name}: {reason}")
    lines += [f"these files import each other in a circle: {', '.join(circle)}" for circle in circles(graph)]
    return lines


def _refused(source: Source, found: Import, doors: dict[str, set[str]]) -> str:
    """Why a file may not import this; empty where it may."""
    package, target = source.module.split(".")[0], found.module.split(".")[0]
    if not target.startswith("timmx"):
        return ""
    if package != "timmx":
        if target == "timmx" and found.module not in PUBLIC:
            return "a backend imports timmx.plugin and timmx.testing only"
        if target not in ("timmx", package) and (package, target) not in BETWEEN_WHEELS:
            return f"{package} does not build on {target}"
        if target != package and found.name not in doors.get(found.module, found.name and ()):
            return f"{found.module} does not name it as public"
        return ""
    if target != "timmx":
        return "the core imports no backend"
    own, other = room_of(source.module), room_of(found.module)
    if source.module in ("timmx", "timmx.__main__"):
        return ""
    if other == "":
        return "a room is imported by its own name, and the package itself is for users"
    if other == own:
        return ""
    if own == "" or ROOMS.index(other) < ROOMS.index(own):
        return "that is upwards"
    if other != "errors" and found.name and found.name not in doors.get(f"timmx.{other}", ()):
        return f"the door of {other} does not name it"
    if other != "errors" and found.module != f"timmx.{other}":
        return f"other rooms import from timmx.{other} itself"
    return ""


def room_of(module: str) -> str:
    """The room of a core module; "" for the package itself and for what only holds rooms."""
    inside = f"{module.removeprefix('timmx').lstrip('.')}."
    return max((room for room in ROOMS if inside.startswith(f"{room}.")), key=len, default="")


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of files in which each reaches every other one."""
    reached = {module: _reachable(graph, module) for module in graph}
    found = {
        tuple(sorted(other for other in reached[module] if module in reached[other]))
        for module in graph
        if module in reached[module]
    }
    return [list(circle) for circle in sorted(found)]


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        module = ahead.pop()
        if module not in reached:
            reached.add(module)
            ahead += graph[module]
    return reached


def test_every_file_keeps_to_the_rooms():
    assert violations(sources()) == []


@pytest.mark.parametrize(
    ("module", "text", "said"),
    [
        ("timmx.base.planted", "from timmx.contract import Runner", "that is upwards"),
        ("timmx.errors", "from timmx.base import reporter", "that is upwards"),
        ("timmx.contract.planted", "def f():\n    from timmx.exporting import export", "that is upwards"),
        (
            "timmx.model.planted",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from timmx.verification import Reference",
            "that is upwards",
        ),
        ("timmx.report.planted", "from timmx.tools.eval import evaluate", "that is upwards"),
        (
            "timmx.capture.planted",
            "from timmx.model.load import load_model",
            "import from timmx.model itself",
        ),
        (
            "timmx.capture.planted",
            "from timmx.model import hash_everything",
            "the door of model does not name it",
        ),
        ("timmx.capture.planted", "import timmx.model.load", "import from timmx.model itself"),
        ("timmx.cli.planted", "from timmx_onnx import OnnxRunner", "the core imports no backend"),
        ("timmx.unheard.of", "from timmx.base import reporter", "that is upwards"),
        ("timmx_onnx.planted", "from timmx.contract import Runner", "a backend imports timmx.plugin"),
        ("timmx_torchscript.planted", "from timmx import exporting", "a backend imports timmx.plugin"),
        ("timmx_tensorrt.planted", "from timmx_onnx.runner import OnnxRunner", "does not name it as public"),
        ("timmx_tensorrt.planted", "from timmx_onnx import _secret", "does not name it as public"),
        (
            "timmx_litert.planted",
            "from timmx_onnx import OnnxRunner",
            "timmx_litert does not build on timmx_onnx",
        ),
        ("timmx_onnx.planted", "from timmx.plugin import secret", "does not name it as public"),
        ("timmx.base.planted", "from timmx import export", "the package itself is for users"),
        ("timmx.errors", "import timmx", "the package itself is for users"),
        ("timmx.inputs.planted", "import timmx.tools", "the package itself is for users"),
    ],
)
def test_a_planted_violation_is_found(module: str, text: str, said: str):
    planted = Source(module, Path(f"{module}.py"), text)
    lines = violations([*(source for source in sources() if source.module != module), planted])
    assert any(line.startswith(f"{module}.py:") and said in line for line in lines), lines


def generated_project(folder: Path) -> list[Source]:
    """The sources of a project that `timmx new-backend` writes."""
    from timmx.cli.new_backend import NewBackend, write_project

    new = NewBackend(name="paddle", title="Paddle", suffix=".pdmodel", companions=(".pdiparams",))
    root = write_project(new, folder / "project").folder / "src"
    return [
        Source(".".join(path.relative_to(root).with_suffix("").parts), path, path.read_text("utf-8"))
        for path in sorted(root.rglob("*.py"))
    ]


def test_a_generated_project_imports_the_door_only(tmp_path: Path):
    project = generated_project(tmp_path)
    assert len(project) > 4
    assert violations([*sources(), *project]) == []


def test_a_planted_circle_is_found():
    for package in ("timmx.base", "timmx_litert"):
        one = Source(f"{package}.one", Path("one.py"), f"def f():\n    from {package}.two import x")
        two = Source(
            f"{package}.two",
            Path("two.py"),
            f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {package}.one import y",
        )
        (line,) = violations([*sources(), one, two])
        assert line == f"these files import each other in a circle: {package}.one, {package}.two"


def test_a_door_gives_what_it_names():
    for source in sources():
        if source.path.suffix == ".pyi":
            package = importlib.import_module(source.module)
            files = {path.stem for path in source.path.parent.glob("*.py")}
            folders = {path.parent.name for path in source.path.parent.glob("*/__init__.py")}
            assert not set(package.__all__) & (files | folders), (
                f"{source.module}: a file would hide the name"
            )
            for name in package.__all__:
                assert getattr(package, name) is not None


def test_the_documented_rooms_are_those_of_the_code():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## Rooms")[1]
    documented = re.findall(r"^\| `([a-z./]+)` \| (.+) \|$", text, re.MULTILINE)
    stated = [
        (name.removesuffix("/").removesuffix(".py").replace("/", "."), purpose)
        for name, purpose in documented
    ]
    assert stated == [(room, _first_line(room)) for room in ROOMS]


def _first_line(room: str) -> str:
    path = CORE / room.replace(".", "/")
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def test_dataclasses_of_more_than_four_fields_take_keywords_only():
    for source in sources():
        for node in ast.walk(ast.parse(source.text)):
            if isinstance(node, ast.ClassDef) and (reason := _positional(node)):
                pytest.fail(f"{source.path}:{node.lineno} {node.name} {reason}")


def _positional(node: ast.ClassDef) -> str:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    made = [text for text in decorators if text.split("(")[0] in ("dataclass", "dataclasses.dataclass")]
    count = sum(
        isinstance(item, ast.AnnAssign) and "ClassVar" not in ast.unparse(item.annotation)
        for item in node.body
    )
    if made and count > 4 and "kw_only=True" not in made[0]:
        return f"has {count} fields: add kw_only=True"
    return ""


def metadata_keys() -> frozenset[str]:
    """Every key of the JSON that docs/metadata.md describes, at whatever depth."""
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "metadata.md").read_text("utf-8"), re.MULTILINE)
    names = re.findall(r"`([\w.\[\]]+)`", "".join(rows))
    return frozenset(part for name in names for part in name.replace("[]", "").split("."))


def string_keys_of_metadata(source: Source) -> list[str]:
    """Where a file reads metadata by string keys instead of attributes, one line each.

    `metadata["input"]`, `metadata.input.get("size")` and the like. Another variable is recognized by keys that only
    timmx's metadata has. What a backend puts into `format` is its own: `metadata.format["device"]` is allowed.
    """
    keys = metadata_keys()
    lines = []
    for node in ast.walk(ast.parse(re.sub(r"\$\w+", "placeholder", source.text))):
        if isinstance(node, ast.Subscript):
            base, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            base, key = node.func.value, node.args[0] if node.args else None
        else:
            continue
        if not isinstance(key, ast.Constant) or key.value not in keys:
            continue
        if key.value in _ONLY_IN_METADATA or _is_metadata(base):
            lines.append(f"{source.path}:{node.lineno} reads metadata by a string key: {ast.unparse(node)}")
    return lines


_ONLY_IN_METADATA = {"weights_sha256", "value_range", "color_order"}


def _is_metadata(node: ast.expr) -> bool:
    """Whether an expression is called `metadata` or `..._metadata`, or is a section of one."""
    if isinstance(node, ast.Subscript):
        return _is_metadata(node.value)
    if isinstance(node, ast.Name):
        return node.id == "metadata" or node.id.endswith("_metadata")
    if isinstance(node, ast.Attribute):
        if node.attr in ("model", "input", "outputs", "labels", "batch", "versions"):
            return _is_metadata(node.value)
        return node.attr == "metadata" or node.attr.endswith("_metadata")
    return False


def test_metadata_is_read_by_attributes(tmp_path: Path):
    for source in [*sources(), *generated_project(tmp_path)]:
        if source.module != "timmx.contract.metadata":
            assert string_keys_of_metadata(source) == []


@pytest.mark.parametrize(
    "text",
    [
        'metadata["input"]',
        'self._metadata["outputs"][0]["kind"]',
        'their_metadata.get("batch", {})',
        'metadata.input["size"]',
        'metadata.outputs[0].get("name")',
        'metadata.versions["torch"] + metadata["versions"]',
        'entry["color_order"]',
    ],
)
def test_a_planted_string_key_of_metadata_is_found(text: str):
    assert string_keys_of_metadata(Source("planted", Path("planted.py"), text))


@pytest.mark.parametrize(
    "text",
    [
        'metadata.format["device"]',
        'metadata.format.get("profile")',
        "metadata.versions[name]",
        'distribution.metadata["Name"]',
        'model["name"]',
    ],
)
def test_other_string_keys_are_not_taken_for_those_of_metadata(text: str):
    assert not string_keys_of_metadata(Source("planted", Path("planted.py"), text))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_package_states_what_it_imports(path: Path):
    package = next(parent for parent in path.parents if parent in PACKAGES)
    own = next(package.glob("src/*")).name
    source = Source("", path, path.read_text("utf-8"))
    for found in source.imports(frozenset()):
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


def test_help_and_refusals_import_nothing_heavy(process, tmp_path: Path):
    """One process runs all commands, in the order in which each would be the first to import something."""
    commands = [
        ["--help"],
        ["--version"],
        ["backends", "--help"],
        ["list", "--help"],
        *([entry.name, "--help"] for entry in entries()),
        ["no-such-format", "resnet18"],
        ["onnx", "resnet18", "--no-such-option"],
        ["onnx", "resnet18", "--opset", "3"],
        ["onnx", "resnet18", "--mean", "0.5"],
        ["onnx", "resnet18", "-o", "resnet18.txt"],
        ["torch-export", "resnet18", "--dynamic-batch", "--batch-size", "1"],
        ["coreml", "resnet18", "--half"],
        ["tensorrt", "resnet18", "--onnx-only", "--mode", "none"],
    ]
    code = """
import json, sys
from timmx.cli.application import app
for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments)
    except SystemExit as exc:
        status = exc.code
    print(json.dumps([arguments, status, sorted({name.split(".")[0] for name in sys.modules})]), file=sys.stderr)
"""
    done = process([sys.executable, "-c", code, json.dumps(commands)], cwd=tmp_path)
    results = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[[")]
    assert [arguments for arguments, _, _ in results] == commands
    for arguments, status, imported in results:
        assert status == (0 if arguments[-1] in ("--help", "--version") else 2), arguments
        assert not {*HEAVY, "numpy"} & set(imported), arguments


def test_the_command_imports_nothing_heavy(process, tmp_path: Path):
    done = process([sys.executable, "-X", "importtime", "-m", "timmx", "--help"], cwd=tmp_path)
    imported = set(re.findall(r"^import time:.*\| +(\w+)\S*$", done.stderr, re.MULTILINE))
    assert "typer" in imported
    assert not imported & HEAVY


def test_importing_timmx_imports_nothing_heavy(process):
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
