"""Install each backend's wheel as a user would, outside the checkout, and use it: python .ci/wheels.py dist

For the core alone and for the core with each backend: an empty environment, `uv pip install --find-links
DIST`, then `timmx` from an empty folder. Standard library only.
"""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = os.environ.get("UV") or shutil.which("uv") or "uv"
KNOWN = json.loads((ROOT / "packages/timmx-core/src/timmx/registry/known_backends.json").read_text("utf-8"))
"""Formats that the core can name, whether a package for them is here or not."""
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONDONTWRITEBYTECODE")
}
"""Nothing of the checkout's environment may reach the one under test."""
checked = threading.local()
"""What this thread checks, for its lines."""
LEFT_OUT = {"tensorrt": "tensorrt"}
"""Requirements of gigabytes that only their hardware can use: in the wheel, and not installed here."""
ARGUMENTS = {"tensorrt": ["--onnx-only"]}
"""What the example's export needs where such a requirement is missing."""


def main(dist: Path) -> None:
    packages = sorted(path.name for path in (ROOT / "packages").iterdir() if path.name.startswith("timmx-"))
    backends = [name.removeprefix("timmx-") for name in packages if name != "timmx-core"]
    with (
        tempfile.TemporaryDirectory(prefix="timmx-wheels-") as folder,
        ThreadPoolExecutor(
            2, thread_name_prefix="lane"
        ) as pool,  # an export uses one core for most of its time
    ):
        list(pool.map(partial(check_in_new_environment, dist, Path(folder)), (None, *backends)))


def check_in_new_environment(dist: Path, folder: Path, backend: str | None) -> None:
    """Check a backend in an empty environment, in this thread's folder.

    The environments of a thread have one path, so torch, for example, is compiled once for them and not once in each.
    """
    began = time.monotonic()
    checked.name = backend or "the core alone"
    lane = folder / threading.current_thread().name
    check(backend, dist, lane / "check", CLEAN | {"PYTHONPYCACHEPREFIX": str(lane / "bytecode")})
    shutil.rmtree(lane / "check")
    print(f"{checked.name}: {time.monotonic() - began:.0f} s", flush=True)


def check(backend: str | None, dist: Path, folder: Path, variables: dict[str, str]) -> None:
    """One environment with the core and at most one backend."""
    environment, empty = folder / "environment", folder / "empty"
    empty.mkdir(parents=True)
    packages = ["timmx-core", *([f"timmx-{backend}"] if backend else [])]
    install(environment, dist, *packages, leave_out=LEFT_OUT.get(backend or ""))
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")

    def timmx(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [scripts / "timmx", *arguments],
            cwd=empty,
            env=variables,
            text=True,
            capture_output=True,
            check=False,
        )

    installed = installed_backends(timmx("backends", "--json"))
    expect(backend is None or backend in installed, f"timmx backends shows {installed}")
    shown = timmx("--help")
    expect(shown.returncode == 0, "timmx --help works", shown)
    listed = [name for name in KNOWN if re.search(rf"^\W*{name}\s", shown.stdout, re.MULTILINE)]
    expect(listed == [name for name in KNOWN if name in installed], f"timmx --help shows {listed}", shown)
    for other in sorted(KNOWN.keys() - set(installed)):
        refused = timmx(other, "resnet18")
        hint = f"uv pip install {KNOWN[other]['distribution']}"
        expect(refused.returncode == 2 and hint in refused.stderr, f"timmx {other} says {hint}", refused)
    if backend is None:
        expect(not installed, "the core alone has no format")
        return
    requirements = backend_requirements(backend, dist)
    if backend in LEFT_OUT:
        expect(LEFT_OUT[backend] in required(backend, dist), f"the wheel requires {LEFT_OUT[backend]}")
    expect(installed == sorted({backend, *requirements}), "no other format came along")
    export(backend, timmx, empty)


def export(backend: str, timmx, empty: Path) -> None:
    """The example model is exported and verified, and its file is where `--output` says."""
    exported = timmx(
        backend, f"local-dir:{ROOT / 'examples' / 'digits'}", "--json", *ARGUMENTS.get(backend, ())
    )
    expect(exported.returncode == 0, f"timmx {backend} exports the example", exported)
    result = json.loads(exported.stdout)
    status, path = result["verification"]["status"], empty / result["path"]
    expect(status == "verified", f"verification says {status}", exported)
    expect(path.name.startswith("digits.") and path.exists(), f"{path.name} was written", exported)
    files = {Path(name).name for name in result["files"]}
    expect({item.name for item in empty.iterdir()} == files, "and nothing else", exported)


def backend_requirements(backend: str, dist: Path) -> list[str]:
    """Backends that a backend's own wheel requires."""
    return [name for name, facts in KNOWN.items() if facts["distribution"] in required(backend, dist)]


def required(backend: str, dist: Path) -> set[str]:
    """The distributions that a backend's wheel requires, without its extras."""
    (wheel,) = dist.glob(f"timmx_{backend.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    texts = metadata.get_all("Requires-Dist", [])
    return {re.match(r"[\w.-]+", text)[0] for text in texts if "extra ==" not in text}


def installed_backends(answer: subprocess.CompletedProcess[str]) -> list[str]:
    expect(answer.returncode == 0, "timmx backends --json works", answer)
    found = json.loads(answer.stdout)
    for item in found:
        expect(item["state"] == "available", f"{item['name']} is {item['state']}", answer)
    return sorted(item["name"] for item in found)


def install(environment: Path, dist: Path, *requirements: str, leave_out: str | None = None) -> None:
    """A new environment with these in it, ours as they lie in `dist`.

    uv keeps a wheel of a folder by its name alone: without a refresh, the one of an earlier build comes back.
    """
    ours = sorted({path.name.split("-")[0] for path in dist.glob("*.whl")})
    uv(dist, "venv", "--quiet", "--python", sys.executable, environment)
    options = [f"--refresh-package={name}" for name in ours]
    if leave_out:
        overrides = environment / "overrides.txt"
        overrides.write_text(f"{leave_out}; sys_platform == 'never'\n", "utf-8")
        options += ["--overrides", overrides]
    uv(
        dist,
        "pip",
        "install",
        "--quiet",
        "--python",
        environment,
        "--find-links",
        dist,
        *options,
        *requirements,
    )


def uv(cwd: Path, *arguments: object) -> None:
    subprocess.run([UV, *map(str, arguments)], cwd=cwd, env=CLEAN, check=True)


def expect(fact: bool, what: str, done: subprocess.CompletedProcess[str] | None = None) -> None:
    name = getattr(checked, "name", "")
    print(f"  {name}{': ' if name else ''}{'ok' if fact else 'NOT OK'}: {what}", flush=True)
    if not fact:
        if done is not None:
            print(f"exit status {done.returncode}\n{done.stdout}{done.stderr}")
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
