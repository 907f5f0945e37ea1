"""Engines of the real TensorRT on a real GPU; `test_command.py` tests the same steps with a stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest
import timmx
from timmx.registry.discovery import load
from timmx_tensorrt.plugin import TensorRTBackend

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
pytestmark = pytest.mark.tensorrt


@pytest.fixture(autouse=True)
def _skip_without_tensorrt():
    if problems := load("tensorrt").check_environment():
        pytest.skip(" ".join(problem.message for problem in problems))


@pytest.mark.parametrize("mode", ["fp32", "fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("batch", [{}, {"dynamic_batch": True, "batch_size": 4, "batch_max": 8}])
def test_engine_is_built_and_verified(tmp_path, mode, batch):
    data = {"calibration_data": DIGITS / "samples"} if mode in ("int8", "fp8") else {}
    result = timmx.export(
        "tensorrt",
        f"local-dir:{DIGITS}",
        device="cuda",
        mode=mode,
        output=tmp_path / "digits.engine",
        timing_cache=tmp_path / "cache",
        **data,
        **batch,
    )
    assert result.verification.status == "verified"
    assert result.verification.top1_agreement >= 0.99
    with timmx.open(result.path) as runner:
        assert runner.batch_sizes == ((1, 4, 8) if batch else (1, 2, 3))


def test_engine_is_built_from_the_typed_onnx(tmp_path):
    onnx = tmp_path / "digits.onnx"
    timmx.export("tensorrt", f"local-dir:{DIGITS}", onnx_only=True, mode="fp16", output=onnx)
    result = TensorRTBackend().create_command()(
        from_onnx=onnx, device="cuda", output=tmp_path / "digits.engine", triton=tmp_path / "repository"
    )
    assert result.verification.status == "verified"
