"""The conformance kit on the typed ONNX of the tensorrt backend, which needs no GPU."""

from __future__ import annotations

from typing import ClassVar

from timmx.testing import BackendConformance


class TestTyped(BackendConformance):
    backend = "tensorrt"
    export_options: ClassVar = {"onnx_only": True, "mode": "fp16"}
    dynamic_batch_options: ClassVar = {"batch_size": 2, "batch_max": 4}
