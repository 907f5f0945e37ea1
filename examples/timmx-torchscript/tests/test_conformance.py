"""The conformance kit of timmx on this backend."""

from timmx.testing import BackendConformance


class TestTorchScript(BackendConformance):
    backend = "torchscript"
