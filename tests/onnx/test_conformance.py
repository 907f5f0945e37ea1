"""The conformance kit on the onnx backend."""

from timmx.testing import BackendConformance


class TestOnnx(BackendConformance):
    backend = "onnx"
