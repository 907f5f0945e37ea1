"""`timmx executorch` refuses wrong options before torch or executorch is imported, and says what is not installed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import timmx
from timmx.errors import ConfigurationError
from timmx_executorch.options import Delegate, ExecuTorchOptions
from timmx_executorch.plugin import ExecuTorchBackend


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "int8"}, "--calibration-data.*--random-calibration.*dynamic-int8"),
        ({"mode": "fp16", "random_calibration": True}, "--random-calibration requires --mode int8"),
        (
            {"mode": "int8", "delegate": "portable", "random_calibration": True},
            "int8 is not available with .*portable",
        ),
        ({"mode": "weight-int8", "delegate": "coreml"}, "use --mode fp16 or fp32"),
        ({"batch_max": 4}, "--batch-max requires --dynamic-batch"),
        (
            {"dynamic_batch": True, "batch_size": 9},
            r"--batch-size 9 is larger than .*, 8\nhint: use --batch-max 9",
        ),
        (
            {"dynamic_batch": True, "delegate": "coreml"},
            "--dynamic-batch is not available with --delegate coreml",
        ),
        ({"external_weights": True, "delegate": "coreml"}, "--external-weights is not available"),
        ({"delegate": "vulkan"}, "coreml, portable, xnnpack"),
    ],
)
def test_wrong_options_are_refused(options, words, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        timmx.export("executorch", "resnet18", output=tmp_path / "a.pte", **options)
    assert re.search(words, f"{caught.value} {caught.value.hint}")


def test_wrong_options_and_metadata_need_no_torch(process, exported_digits):
    path = exported_digits("executorch")
    code = (
        "import sys, timmx.plugin\n"
        "from pathlib import Path\n"
        "from timmx_executorch.plugin import ExecuTorchBackend\n"
        f"assert ExecuTorchBackend().read_metadata(Path({str(path)!r}))['precision'] == 'fp32'\n"
        f"assert ExecuTorchBackend().inspect(Path({str(path)!r}))\n"
        "assert not {'torch', 'executorch.exir'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_windows_has_no_converter(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = ExecuTorchBackend().check_environment()
    assert "only for Linux and macOS" in problem.message
    assert "WSL" in problem.fix


def test_core_ml_requires_coremltools(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "coremltools" else object())
    backend = ExecuTorchBackend()
    (problem,) = backend.check_environment(None, ExecuTorchOptions(delegate=Delegate.COREML))
    assert problem.message == "--delegate coreml requires coremltools, not installed"
    assert backend.check_environment(None, ExecuTorchOptions()) == ()
    assert all(problem.partial for problem in backend.check_environment())
