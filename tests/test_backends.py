"""One real export with every installed backend, through its command; the second tier has the others."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path

import pytest
from timmx.registry import entries, load

BACKENDS = sorted(
    path.name.removeprefix("timmx-") for path in Path(__file__).parents[1].glob("packages/timmx-*")
)
BACKENDS.remove("core")
OPTIONS = {"tensorrt": {"onnx_only": True}}
"""What an export needs without the format's hardware."""


def test_every_package_is_a_backend():
    assert sorted(entry.name for entry in entries()) == BACKENDS


def contents(path):
    """The bytes of a file, or of each file in a folder."""
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    return [item.read_bytes() for item in files]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_digits_are_exported_inspected_and_classified(one_export, run_timmx, digits, tmp_path, backend):
    subject = load(backend)
    site_packages = sysconfig.get_path("purelib").encode()
    path = tmp_path / f"digits{'.onnx' if backend == 'tensorrt' else subject.suffixes[0]}"
    result = subject.create_command()(model=digits, output=path, **OPTIONS.get(backend, {}))
    assert result.verification.status == "verified"
    assert result.verification.top1_agreement == 1.0
    assert not any(site_packages in content for content in contents(path)), "a path of this machine"
    assert json.loads(run_timmx("inspect", path, "--json").stdout)["labels"] == [
        str(digit) for digit in range(10)
    ]
    image = next(iter((Path(digits.removeprefix("local-dir:")) / "samples" / "7").iterdir()))
    predictions = json.loads(run_timmx("predict", path, image, "--json").stdout)
    assert predictions["images"][0]["predictions"][0]["label"] == "7"


@pytest.mark.parametrize("backend", BACKENDS)
def test_help_shows_the_options_of_the_backend_and_the_shared_ones(run_timmx, backend):
    shown = run_timmx(backend, "--help")
    assert shown.exit_code == 0
    assert load(backend).help.split()[0] in shown.stdout.split()
    assert "--pretrained" in shown.stdout
