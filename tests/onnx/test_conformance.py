"""The conformance kit on the onnx backend."""

from typing import ClassVar

import pytest
from timmx.testing import BackendConformance


class TestOnnx(BackendConformance):
    backend = "onnx"


@pytest.mark.slow  # the same checks again; test_weights.py and test_export.py have exports of each mode in every run
class TestWeightInt8(BackendConformance):
    backend = "onnx"
    export_options: ClassVar = {"mode": "weight-int8"}


@pytest.mark.slow
class TestFloat16(BackendConformance):
    backend = "onnx"
    export_options: ClassVar = {"mode": "fp16"}
