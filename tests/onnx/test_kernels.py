"""ONNX Runtime has integer kernels for the layers of `--mode int8` that the metadata states as `integer`."""

from __future__ import annotations

from collections import Counter

import onnx
import onnxruntime
import pytest
from conftest import DIGITS
from timmx.testing import awakened_model

KERNELS = ("QLinearConv", "QGemm", "MatMulIntegerToFloat")
MODELS = {
    "test_convnext": {"depths": (1, 1, 1, 1)},
    "test_efficientnet": {},
    "test_vit2": {"depth": 1},
}


@pytest.mark.parametrize("batch", [{}, {"batch_size": 2}, {"dynamic_batch": True}], ids=["1", "2", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_layers_in_integers_have_integer_kernels(name, batch, export, tmp_path):
    result = export(
        "onnx",
        awakened_model(name, **MODELS[name]),
        tmp_path / "a.onnx",
        mode="int8",
        calibration_data=DIGITS / "samples",
        calibration_samples=16,
        verify=False,
        **batch,
    )
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 3  # it warns that the optimized file depends on the machine
    onnxruntime.InferenceSession(str(result.path), settings, providers=["CPUExecutionProvider"])
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    layers = result.metadata["format"]["quantization_plan"]["layers"]
    assert layers["integer"] > 0
    assert sum(operators[kernel] for kernel in KERNELS) == layers["integer"]
