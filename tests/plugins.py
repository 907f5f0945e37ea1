"""Installs plugins for tests: real modules with real `.dist-info` folders, as pip installs them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import forks
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GOOD = """
from timmx.plugin import ExportBackend

class Backend(ExportBackend):
    contract = 1
    name = "{name}"
    help = "A test format."
    suffixes = (".{name}",)

    def export(self, job, options): ...
    def open(self, path, settings): ...
    def read_metadata(self, path): ...
"""


def install_plugin(
    site: Path,
    name: str,
    source: str = GOOD,
    *,
    distribution: str | None = None,
    requires: tuple[str, ...] = (),
    target: str | None = None,
) -> Path:
    """Install a plugin into the folder `site`, for PYTHONPATH; returns its module's file."""
    distribution = distribution or f"timmx-{name}"
    package = distribution.replace("-", "_")
    site.mkdir(parents=True, exist_ok=True)
    module = site / f"{package}.py"
    module.write_text(source.replace("{name}", name))
    info = site / f"{package}-1.2.3.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {distribution}",
        "Version: 1.2.3",
        f"Summary: The {name} format.",
    ]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    (info / "entry_points.txt").write_text(f"[timmx.backends]\n{name} = {target or f'{package}:Backend'}\n")
    return module


def on_path(site: Path) -> str:
    """`PYTHONPATH` with a folder added at the front."""
    return os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Install the plugins of `site` in this process and in those that it starts."""
    from timmx.cli import application
    from timmx.registry import discovery

    def forget() -> None:
        discovery.entries.cache_clear()
        application._backend_rows.cache_clear()

    modules = {path.stem for path in site.glob("*.py")}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", on_path(site))
        patch.setenv("COLUMNS", "200")
        patch.setenv("NO_COLOR", "1")
        forget()
        try:
            yield
        finally:
            for name in modules & sys.modules.keys():
                del sys.modules[name]
    forget()


def timmx(
    *arguments: object,
    site: Path | None = None,
    cwd: Path | None = None,
    timeout: float = 120,
    forked: bool = False,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """`python -m timmx ARGS` in a new process, with the plugins of `site` installed.

    With `forked`, torch and timm are imported already: see `forks`.
    """
    variables = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | environment
    if site is not None:
        variables["PYTHONPATH"] = on_path(site)
    command = [sys.executable, "-m", "timmx", *map(str, arguments)]
    if forked:
        return forks.run(command, timeout=timeout, cwd=cwd, env=variables)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=cwd, env=variables, check=False
    )
