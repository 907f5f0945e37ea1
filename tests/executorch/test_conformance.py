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


@pytest.mark.slow
class TestCoreML(BackendConformance):
    """The model inside the program, in timmx-coreml's evaluator."""

    backend = "executorch"
    export_options: ClassVar = {"delegate": "coreml"}
    overridden: ClassVar = dict.fromkeys(
        (
            "test_dynamic_batch",
            "test_dynamic_batch_with_a_batch_size_of_one",
            "test_numbers_at_several_batch_sizes",
        ),
        "ExecuTorch's Core ML delegate has fixed sizes only, and --dynamic-batch is refused",
    )
    test_dynamic_batch = test_dynamic_batch_with_a_batch_size_of_one = None
    test_numbers_at_several_batch_sizes = None
