"""Adaptive pooling to sizes that do not divide the input's is two matrix products in ONNX."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from timmx_onnx.pooling import pooling_translations
from witnesses import Does

pytestmark = pytest.mark.usefixtures("export")


@pytest.mark.parametrize(("sizes", "operations"), [(((7, 5), (4, 1)), {"MatMul"}), (((1, 1),), None)])
def test_pooling_to_uneven_sizes_is_a_product_with_a_dynamic_batch(sizes, operations, tmp_path):
    x = torch.randn(3, 2, 16, 12)
    module = Does(lambda x: tuple(torch.nn.functional.adaptive_avg_pool2d(x, size) for size in sizes)).eval()
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    translations = pooling_translations(program)
    assert bool(translations) is bool(operations)
    model = torch.onnx.export(program, (), custom_translation_table=translations, verbose=False)
    assert operations is None or {node.op_type for node in model.model.graph} == operations
    model.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for result, expected in zip(session.run(None, {"input": x[:1].numpy()}), module(x[:1]), strict=True):
        np.testing.assert_allclose(result, expected.numpy(), atol=1e-6)
