"""Builds and installs projects outside the workspace, as an installer of wheels does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import forks
import pytest
from plugins import on_path

if TYPE_CHECKING:
    from pathlib import Path


def install_project(project: Path, site: Path) -> None:
    """Build the project's wheel and unpack it into the folder `site`, for PYTHONPATH."""
    uv = os.environ.get("UV") or shutil.which("uv")  # set by `uv run`
    if uv is None:
        pytest.skip("uv is not on PATH")
    command = [uv, "build", "--quiet", "--wheel", "--out-dir", site / "wheels", project]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (site / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


def run_tests(project: Path, site: Path, *arguments: str) -> str:
    """Run the project's tests in a new process with the packages of `site`; returns pytest's last line."""
    done = forks.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": on_path(site), "PYTEST_ADDOPTS": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]
