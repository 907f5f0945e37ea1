"""The conformance kit on the litert backend: float files, and bytes in and out."""

from typing import ClassVar

import pytest
from timmx.testing import BackendConformance


class TestFloat(BackendConformance):
    backend = "litert"


@pytest.mark.slow  # the same checks again; test_export.py has one export of each option in every run
class TestBytes(BackendConformance):
    backend = "litert"
    export_options: ClassVar = {"mode": "int8", "io": "uint8", "normalize": True, "random_calibration": True}
