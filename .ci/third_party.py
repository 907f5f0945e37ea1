"""Use backends that are not ours with the built wheels, outside the checkout: python .ci/third_party.py dist

The example backend, built and installed as a third-party wheel; a project of `timmx new-backend`, by the commands
that it prints; and whatever published-backends.txt names. Each runs the conformance kit. Standard library only.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from wheels import CLEAN, ROOT, UV, checked, expect, export, install, uv

EXAMPLE = ROOT / "examples" / "timmx-torchscript"
PUBLISHED = ROOT / ".ci" / "published-backends.txt"
KIT = """
from timmx.testing import BackendConformance


class TestBackend(BackendConformance):
    backend = "{name}"
"""
ENVIRONMENT = CLEAN | {
    "OMP_NUM_THREADS": "1",  # tiny models: threads only wait for each other
    "UV_PYTHON": sys.executable,
}


def main(dist: Path) -> None:
    published = [line for line in PUBLISHED.read_text("utf-8").splitlines() if line and line[0] != "#"]
    tasks = {"examples/timmx-torchscript": example, "timmx new-backend": new_backend}
    tasks |= {requirement: partial(check, requirement) for requirement in published}
    with ThreadPoolExecutor(2) as pool:  # a task uses one core for most of its time
        list(pool.map(partial(run, dist), tasks, tasks.values()))


def run(dist: Path, name: str, task: Callable[[Path, Path], None]) -> None:
    began = time.monotonic()
    checked.name = name
    with tempfile.TemporaryDirectory(prefix="timmx-third-party-") as folder:
        task(Path(folder), dist)
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def example(folder: Path, dist: Path) -> None:
    """The example's wheel, and its own tests."""
    uv(folder, "build", "--quiet", "--wheel", "--out-dir", folder / "wheels", EXAMPLE)
    (wheel,) = (folder / "wheels").glob("*.whl")
    check(str(wheel), folder, dist, tests=EXAMPLE)


def new_backend(folder: Path, dist: Path) -> None:
    """A new project by the commands that it prints, the core coming from `dist` as it would from an index."""
    timmx = installed(folder, dist, "timmx-core")
    made = timmx("new-backend", "my-format", "--json")
    expect(made.returncode == 0, "timmx new-backend writes a project", made)
    facts = json.loads(made.stdout)
    project = folder / "empty" / facts["path"]
    change_folder, *commands, use = facts["next"]
    expect(change_folder == f"cd {facts['path']}", "it says where to go")
    environment = ENVIRONMENT | {"UV_FIND_LINKS": str(dist)}

    def type_in(command: str) -> subprocess.CompletedProcess[str]:
        words = [UV, *command.split()[1:]]
        return subprocess.run(
            words, cwd=project, env=environment, text=True, capture_output=True, check=False
        )

    for command in commands:
        done = type_in(command)
        expect(done.returncode == 0, command, done)
    print(done.stdout, end="")
    exported = type_in(use.replace("resnet18 --pretrained", f"local-dir:{ROOT / 'examples' / 'digits'}"))
    expect(exported.returncode == 0 and "verified: " in exported.stdout, use.split(" resnet18")[0], exported)


def check(requirement: str, folder: Path, dist: Path, tests: Path | None = None) -> None:
    """A wheel or a published distribution with the core of `dist`: every backend in it exports, and the kit runs."""
    timmx = installed(folder, dist, "timmx-core[testing]", requirement)
    listed = timmx("backends", "--json")
    expect(listed.returncode == 0, "timmx backends works", listed)
    for found in json.loads(listed.stdout):
        name = found["name"]
        expect(found["state"] == "available", f"{name} is {found['state']}", listed)
        work = folder / name
        work.mkdir()
        export(name, lambda *arguments, work=work: timmx(*arguments, cwd=work), work)
        if tests is None:
            (folder / "kit").mkdir(exist_ok=True)
            (folder / "kit" / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
            (folder / "kit" / f"test_{name}.py").write_text(KIT.format(name=name))
    if tests is not None:
        shutil.copytree(tests / "tests", folder / "kit" / "tests")
        shutil.copy(tests / "pyproject.toml", folder / "kit")
    command = [scripts(folder) / "python", "-m", "pytest", "-q", "-W", "ignore"]
    kit = subprocess.run(
        command, cwd=folder / "kit", env=ENVIRONMENT, text=True, capture_output=True, check=False
    )
    print(kit.stdout, end="")
    expect(kit.returncode == 0, "the conformance kit passes", kit)


def installed(folder: Path, dist: Path, *requirements: str):
    """An empty environment with these in it; returns its `timmx`, to be run in an empty folder."""
    install(folder / "environment", dist, *requirements)
    (folder / "empty").mkdir()

    def timmx(*arguments: str, cwd: Path = folder / "empty") -> subprocess.CompletedProcess[str]:
        command = [scripts(folder) / "timmx", *arguments]
        return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True, check=False)

    return timmx


def scripts(folder: Path) -> Path:
    return folder / "environment" / ("Scripts" if os.name == "nt" else "bin")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
