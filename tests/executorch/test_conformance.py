"""The conformance kit on the executorch backend: float files in XNNPACK, and its other modes and delegates."""

from typing import ClassVar

import pytest
from timmx.testing import BackendConformance


class TestFloat(BackendConformance):
    backend = "executorch"


@pytest.mark.slow  # the same checks again; test_export.py has one export of each mode in every run
class TestHalf(BackendConformance):
    backend = "executorch"
    export_options: ClassVar = {"mode": "fp16"}


@pytest.mark.slow
class TestStoredWeights(BackendConformance):
    backend = "executorch"
    export_options: ClassVar = {"mode": "weight-int8"}


@pytest.mark.slow
class TestDynamicIntegers(BackendConformance):
    backend = "executorch"
    export_options: ClassVar = {"mode": "dynamic-int8"}


@pytest.mark.slow
class TestIntegers(BackendConformance):
    backend = "executorch"
    export_options: ClassVar = {"mode": "int8", "random_calibration": True}


@pytest.mark.slow
class TestPortable(BackendConformance):
    backend = "executorch"
    export_options: ClassVar = {"delegate": "portable"}
