"""The conformance kit on the coreml backend, for both kinds of Core ML model."""

import pytest
from timmx.testing import BackendConformance


class TestMLProgram(BackendConformance):
    backend = "coreml"


@pytest.mark.slow  # the same checks again; test_export.py has one export of each option in every run
class TestNeuralNetwork(BackendConformance):
    backend = "coreml"
    export_options = {"convert_to": "neuralnetwork"}  # noqa: RUF012 - the kit's own type
