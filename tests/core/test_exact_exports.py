"""Exports of models that amplify rounding, to every format that runs on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import timm
import torch
from timmx.contract import ExportRequest, OpenSettings, Precision
from timmx.exporting import ModelSession
from timmx.registry import build, load
from timmx.verification import compare_by_operation
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("export")

FORMATS = [
    ("onnx", ".onnx", {}),
    ("torch-export", ".pt2", {}),
    ("litert", ".tflite", {}),
    ("coreml", ".mlpackage", {"compute_precision": "float32"}),
    ("coreml", ".mlmodel", {"convert_to": "neuralnetwork"}),
]
IDS = ["onnx", "torch-export", "litert", "mlprogram", "neuralnetwork"]


class Chaotic(nn.Module):
    """Doubles the rounding error in each of 24 steps, as the logistic map does."""

    pretrained_cfg = {  # noqa: RUF012 - as timm's models have it
        "input_size": (3, 8, 8),
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    }

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 6)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu().mean((2, 3)).sigmoid()
        for _ in range(24):
            x = 4 * x * (1 - x)
        return self.fc(x)


@pytest.mark.parametrize(("backend", "suffix", "options"), FORMATS, ids=IDS)
def test_a_model_that_amplifies_rounding_is_judged_operation_by_operation(
    export, tmp_path, backend, suffix, options
):
    result = export(backend, Chaotic(), tmp_path / f"a{suffix}", **options)
    report = result.verification
    assert report.status == "verified"
    if backend in ("onnx", "litert") or report.snr_db < 100:
        assert report.reason == "operation by operation"
        assert report.resolvable_db < 30
        assert report.operation_db > 105
    # else: the others compute with PyTorch's own kernels, whose results do not differ on CPUs with AVX-512
    planted = Chaotic()
    with torch.no_grad():
        planted.conv.weight[5, 1, 0, 2] *= 1.01
    request = build(ExportRequest, {"model": planted})
    session = ModelSession(request)
    with load(backend).open(result.path, OpenSettings()) as runner:
        operations = compare_by_operation(runner, session.reference, session, Precision.FP32)
    assert not operations.exact
    assert operations.wrong.module == "conv" or operations.wrong.value == "relu"


def test_locate_prints_a_table_of_the_operations(export, tmp_path, run_timmx):
    result = export("onnx", "test_vit", tmp_path / "a.onnx", awaken=True)
    run = run_timmx("verify", result.path, "--locate")
    assert run.exit_code == 0
    assert "blocks.0.attn.qkv" in run.stdout
    assert "all operations are exact to rounding" in run.stdout
    located = json.loads(run_timmx("verify", result.path, "--locate", "--json").stdout)
    assert located["first_wrong"] is None
    assert {item["kind"] for item in located["operations"]} >= {"Conv", "Softmax"}


def unsettle(name: str, path: Path) -> Path:
    """A checkpoint with random weights that amplify rounding: statistics of 4 random inputs fit no others well."""
    from safetensors.torch import save_file

    model, generator = timm.create_model(name), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim <= 1 or parameter.numel() == max(parameter.shape):
                if any(word in key for word in ("weight", "gamma", "scale")):
                    parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.5 + 0.75)
                else:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
            elif not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
            norm.momentum = None
            norm.reset_running_stats()
        model.train()(torch.randn(4, *model.pretrained_cfg["input_size"], generator=generator))
    save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "suffix", "options"), FORMATS[:4], ids=IDS[:4])
@pytest.mark.parametrize("model", ["levit_128s", "levit_conv_128s", "skresnet34"])
def test_families_that_amplify_rounding_are_verified(export, tmp_path, model, backend, suffix, options):
    checkpoint = unsettle(model, tmp_path / "weights.safetensors")
    report = export(backend, model, tmp_path / f"a{suffix}", checkpoint=checkpoint, **options).verification
    assert report.status == "verified"
    assert report.resolvable_db is None or report.exact_db >= report.resolvable_db - 6 or report.operations


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "suffix", "options"), FORMATS[:4], ids=IDS[:4])
def test_an_error_of_1_percent_in_one_weight_of_levit_is_found(export, tmp_path, backend, suffix, options):
    from safetensors.torch import load_file, save_file

    checkpoint = unsettle("levit_128s", tmp_path / "weights.safetensors")
    weights = load_file(checkpoint)
    name = "stages.2.blocks.3.mlp.ln1.linear.weight"
    row, column = divmod(int(weights[name].abs().argmax()), weights[name].shape[1])
    weights[name][row, column] *= 1.01
    save_file(weights, tmp_path / "planted.safetensors")
    result = export(
        backend,
        "levit_128s",
        tmp_path / f"a{suffix}",
        checkpoint=tmp_path / "planted.safetensors",
        verify=False,
        **options,
    )
    session = ModelSession(build(ExportRequest, {"model": "levit_128s", "checkpoint": checkpoint}))
    with load(backend).open(result.path, OpenSettings()) as runner:
        operations = compare_by_operation(runner, session.reference, session, Precision.FP32)
    assert operations.wrong is not None
    assert operations.wrong.module == "stages.2.blocks.3.mlp.ln1"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["efficientvit_m1", "haloregnetz_b", "resnest26d"])
def test_core_ml_keeps_operations_in_float32_until_the_floor_is_reached(export, tmp_path, model):
    checkpoint = unsettle(model, tmp_path / "weights.safetensors")
    result = export("coreml", model, tmp_path / "a.mlpackage", checkpoint=checkpoint)
    assert result.precision is Precision.FP16
    assert result.verification.snr_db >= 22
    assert result.metadata["format"]["float32_operations"] > 0
    assert any("with fewer, the file would miss its floor" in note for note in result.notes)
