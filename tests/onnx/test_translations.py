"""The translations of operators are listed once per process, whatever the version of PyTorch calls them."""

from __future__ import annotations

import timmx_onnx.translations  # noqa: F401 - changes the module below
from torch.onnx._internal._lazy_import import onnxscript_apis


def test_pytorch_gets_the_same_list_in_each_export():
    assert onnxscript_apis.get_torchlib_ops() is onnxscript_apis.get_torchlib_ops()
    assert len(onnxscript_apis.get_torchlib_ops()) > 300


def test_signatures_are_read_once():
    from torch.onnx._internal.exporter._registration import ONNXRegistry
    from torch.onnx._internal.exporter._schemas import op_signature_from_function

    ONNXRegistry.from_torchlib()
    before = op_signature_from_function.cache_info()
    ONNXRegistry.from_torchlib()
    after = op_signature_from_function.cache_info()
    assert after.misses == before.misses
    assert after.hits - before.hits > 300
