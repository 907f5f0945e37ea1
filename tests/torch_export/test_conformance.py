"""The conformance kit on the torch-export backend."""

from timmx.testing import BackendConformance


class TestTorchExport(BackendConformance):
    backend = "torch-export"
