"""The conformance kit on the openvino backend."""

from typing import ClassVar

import pytest
from timmx.testing import BackendConformance


class TestOpenVINO(BackendConformance):
    backend = "openvino"


@pytest.mark.slow  # the same checks again; test_modes.py has exports of each mode in every run
class TestFloat16(BackendConformance):
    backend = "openvino"
    export_options: ClassVar = {"mode": "fp16"}


@pytest.mark.slow
class TestImageBytes(BackendConformance):
    backend = "openvino"
    export_options: ClassVar = {"io": "uint8", "normalize": True}


@pytest.mark.slow
class TestWeightInt8(BackendConformance):
    backend = "openvino"
    export_options: ClassVar = {"mode": "weight-int8"}


@pytest.mark.slow
class TestWeightInt4(BackendConformance):
    backend = "openvino"
    export_options: ClassVar = {"mode": "weight-int4"}
    overridden: ClassVar = dict.fromkeys(
        (
            "test_embedding",
            "test_failure_leaves_what_was_there",
            "test_feature_pyramid",
            "test_one_class_with_sigmoid",
        ),
        "its model has no linear layer that is large enough for 4 bits, and is refused",
    )
    test_embedding = test_failure_leaves_what_was_there = None
    test_feature_pyramid = test_one_class_with_sigmoid = None


@pytest.mark.slow
class TestInt8(BackendConformance):
    backend = "openvino"
    export_options: ClassVar = {"mode": "int8", "random_calibration": True}
