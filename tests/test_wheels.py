"""The published wheels: all are built from this checkout, opened and checked."""

from __future__ import annotations

import configparser
import email
import os
import re
import shutil
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
REPOSITORY = "https://github.com/timmx/timmx"


@pytest.fixture(scope="module")
def dist(process, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels: that of TIMMX_WHEELS if they were built already."""
    if "TIMMX_WHEELS" in os.environ:
        return Path(os.environ["TIMMX_WHEELS"])
    uv = os.environ.get("UV") or shutil.which("uv")  # set by `uv run`
    if uv is None:
        pytest.skip("uv is not on PATH")
    folder = tmp_path_factory.mktemp("dist")
    command = [uv, "build", "--all-packages", "--wheel", "--out-dir", folder]
    process(command, cwd=ROOT, check=True)
    return folder


@pytest.fixture(params=NAMES)
def wheel(request: pytest.FixtureRequest, dist: Path) -> zipfile.ZipFile:
    (path,) = dist.glob(f"{request.param.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_every_package_builds_one_wheel_and_the_workspace_none(dist: Path):
    assert sorted(path.name.split("-")[0].replace("_", "-") for path in dist.glob("*.whl")) == NAMES


def test_wheel_contains_license_and_types(wheel: zipfile.ZipFile):
    (license_name,) = (name for name in wheel.namelist() if name.endswith("/licenses/LICENSE"))
    assert wheel.read(license_name) == (ROOT / "LICENSE").read_bytes()
    assert f"{import_package(wheel)}/py.typed" in wheel.namelist()


def test_wheel_has_complete_metadata(wheel: zipfile.ZipFile):
    metadata = metadata_of(wheel)
    name = metadata["Name"]
    assert metadata["Summary"].endswith(".")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The timmx authors"
    assert metadata["Keywords"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "packages" / name / "README.md").read_text("utf-8")
    classifiers = metadata.get_all("Classifier")
    for minor in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {minor}" in classifiers
    assert "Typing :: Typed" in classifiers
    urls = [url.split(", ") for url in metadata.get_all("Project-URL")]
    assert {label for label, _ in urls} >= {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert all(url.startswith(REPOSITORY) for _, url in urls)


def test_wheel_requirements_are_ranges(wheel: zipfile.ZipFile):
    metadata = metadata_of(wheel)
    requirements = {item.name: item for item in map(Requirement, metadata.get_all("Requires-Dist"))}
    assert metadata["Requires-Python"] == ">=3.11"
    for requirement in requirements.values():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, f"{requirement} has no lower bound"
        assert not operators & {"==", "==="}, f"{requirement} is pinned"
        assert requirement.url is None
    if metadata["Name"] != "timmx-core":
        assert str(requirements["timmx-core"].specifier) == "<0.2,>=0.1"


def test_wheel_has_the_entry_point_of_its_format(wheel: zipfile.ZipFile):
    metadata = metadata_of(wheel)
    if metadata["Name"] == "timmx-core":
        return
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    points = configparser.ConfigParser()
    points.read_string(wheel.read(name).decode())
    backend = metadata["Name"].removeprefix("timmx-")
    assert set(points) <= {"DEFAULT", "timmx.backends", "timmx.checked"}
    assert list(points["timmx.backends"]) == [backend]
    assert re.fullmatch(rf"{import_package(wheel)}\.plugin:\w+", points["timmx.backends"][backend])
    plugin = wheel.read(f"{import_package(wheel)}/plugin.py").decode()
    assert f'name = "{backend}"' in plugin


def test_the_packages_share_one_version_that_is_in_the_changelog(dist: Path):
    versions = {path.name.split("-")[1] for path in dist.glob("*.whl")}
    assert len(versions) == 1
    assert versions.pop() in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_workspace_depends_on_every_package():
    """So that `uv run` in a fresh clone installs them all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    stated = {Requirement(text).name for text in project["project"]["dependencies"]}
    assert stated == set(NAMES) == project["tool"]["uv"]["sources"].keys()


def import_package(wheel: zipfile.ZipFile) -> str:
    (package,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    return package


def metadata_of(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))
