"""Installs packages of npm for the tests that run JavaScript in Node."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def install(shared, *packages: str) -> Path:
    """A folder `node_modules` with these packages, once for all workers; skips the test if there can be none.

    Args:
        shared: the fixture.
        packages: their names.
    """
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node is not installed")

    def fill(folder: Path) -> None:
        (folder / "package.json").write_text("{}")
        # Install scripts would download CUDA libraries; the packages contain what the CPU needs.
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
        try:
            done = subprocess.run(
                command, cwd=folder, text=True, capture_output=True, check=False, timeout=300
            )
        except subprocess.TimeoutExpired:
            (folder / "problem").write_text("npm does not answer")
            return
        if done.returncode:
            reason = f"npm has no {' and '.join(packages)} here: {done.stderr.strip()[-200:]}"
            (folder / "problem").write_text(reason)

    folder = shared(f"node-{'-'.join(packages).replace('/', '-')}", fill)
    if (folder / "problem").exists():
        pytest.skip((folder / "problem").read_text())
    return folder / "node_modules"
