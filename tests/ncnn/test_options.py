"""`timmx ncnn` refuses what ncnn cannot do before torch is imported, and its modes do what the help says."""

from __future__ import annotations

import json
import sys

import pytest
import timmx
import torch
from timmx.errors import ConfigurationError, UnsupportedError
from timmx.registry import load
from torch import nn

REFUSED = [
    ({"batch_size": 4}, "timmx ncnn does not support a --batch-size above 1", "leave --batch-size out"),
    ({"dynamic_batch": True}, "timmx ncnn does not support --dynamic-batch", "leave --dynamic-batch out"),
    ({"mode": "int8"}, "int8", "fp32"),
]


def test_help_describes_the_modes(run_timmx):
    shown = " ".join(run_timmx("ncnn", "--help").stdout.split())
    assert "fp16 halves the file size" in shown
    assert "ncnn's tools for int8 are not in its wheels" in shown


@pytest.mark.parametrize(("options", "message", "hint"), REFUSED)
def test_wrong_options_are_refused(tmp_path, options, message, hint):
    with pytest.raises(ConfigurationError) as caught:
        timmx.export("ncnn", "test_resnet", output=tmp_path / "m.param", **options)
    assert message in caught.value.message
    assert hint in f"{caught.value.message} {caught.value.hint}"
    assert not list(tmp_path.iterdir())


def test_refusal_imports_nothing_heavy(process, tmp_path):
    code = (
        "import sys, json, timmx\n"
        "try: timmx.export('ncnn', 'test_resnet', batch_size=2)\n"
        "except timmx.errors.ConfigurationError: pass\n"
        "print(json.dumps([name for name in ('torch', 'timm', 'ncnn', 'numpy') if name in sys.modules]))"
    )
    done = process([sys.executable, "-c", code], cwd=tmp_path)
    assert json.loads(done.stdout) == []


def test_missing_library(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = load("ncnn").check_environment()
    assert (problem.message, problem.fix) == ("ncnn is not installed", "uv pip install ncnn")


def test_half_precision_halves_the_file(exported_digits):
    sizes = [
        exported_digits("ncnn", mode=mode).with_suffix(".bin").stat().st_size for mode in ("fp32", "fp16")
    ]
    assert sizes[1] < 0.51 * sizes[0]
    metadata = load("ncnn").read_metadata(exported_digits("ncnn", mode="fp16"))
    assert (metadata["precision"], metadata["format"]["mode"]) == ("fp16", "fp16")


class Overflows(nn.Module):
    """Has values above 65504, the largest number in half precision."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward(self, x):
        return self.head(x.mean((2, 3)) * 1e4 * 1e4 / 1e8)


class Sorts(nn.Module):
    """Has an operation for which ncnn has no layer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward(self, x):
        return self.head(x.mean((2, 3)).sort(1)[0])


def test_model_with_another_operation_is_refused(export, tmp_path):
    with pytest.raises(UnsupportedError, match=r"ncnn has no layer for aten\.sort") as caught:
        timmx.export("ncnn", Sorts().eval(), output=tmp_path / "m.param", input_size=(3, 32, 32))
    assert "timmx onnx" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_overflow_of_half_precision_is_a_warning(export, tmp_path):
    """x86 CPUs compute in float32, where the file is exact."""
    torch.manual_seed(0)
    model = Overflows().eval()
    for mode, warned in (("fp32", False), ("fp16", True)):
        result = timmx.export(
            "ncnn", model, output=tmp_path / f"{mode}.param", input_size=(3, 32, 32), mode=mode
        )
        assert any("In half-precision arithmetic" in note for note in result.notes) == warned
