"""The conformance kit on the ncnn backend."""

from typing import ClassVar

import pytest
from timmx.testing import BackendConformance


class TestNcnn(BackendConformance):
    backend = "ncnn"


@pytest.mark.slow  # the same checks again; test_modes.py has an export in half precision in every run
class TestFloat16(BackendConformance):
    backend = "ncnn"
    export_options: ClassVar = {"mode": "fp16"}
