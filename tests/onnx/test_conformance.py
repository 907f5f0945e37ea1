"""The conformance kit on the onnx backend."""

from typing import ClassVar

import pytest
from timmx.testing import BackendConformance, awakened_model
from timmx.testing.base import LABELS


class TestOnnx(BackendConformance):
    backend = "onnx"


@pytest.mark.slow  # the same checks again; test_weights.py and test_export.py have exports of each mode in every run
class TestWeightInt8(BackendConformance):
    backend = "onnx"
    export_options: ClassVar = {"mode": "weight-int8"}


@pytest.mark.slow
class TestWeightInt4(BackendConformance):
    backend = "onnx"
    export_options: ClassVar = {"mode": "weight-int4"}
    overridden: ClassVar = dict.fromkeys(
        (
            "test_checkpoint",
            "test_embedding",
            "test_failure_leaves_what_was_there",
            "test_feature_pyramid",
            "test_one_class_with_sigmoid",
        ),
        "its model has no linear layer that is large enough for 4 bits, and is refused",
    )
    test_checkpoint = test_embedding = test_failure_leaves_what_was_there = None
    test_feature_pyramid = test_one_class_with_sigmoid = None

    @pytest.fixture
    def classifier(self, export, _kept, tmp_path_factory):
        """A transformer in place of the kit's network, whose only linear layer is small."""
        if "classifier" in _kept:
            return _kept["classifier"]
        from safetensors.torch import save_model

        folder = tmp_path_factory.mktemp("classifier")
        options = {"depth": 2}
        save_model(
            awakened_model("test_vit2", num_classes=len(LABELS), **options),
            str(folder / "weights.safetensors"),
        )
        _kept["classifier"] = export(
            "test_vit2",
            folder=folder,
            checkpoint=folder / "weights.safetensors",
            num_classes=len(LABELS),
            model_kwargs=options,
            labels=LABELS,
            normalize=True,
            softmax=True,
        )
        return _kept["classifier"]


INTEGERS = {"mode": "int8", "random_calibration": True, "reduce_range": True}
"""Without reduce_range, the numbers depend on the CPU: some saturate, and random weights amplify the error."""


@pytest.mark.slow
class TestInt8(BackendConformance):
    backend = "onnx"
    export_options: ClassVar = INTEGERS


@pytest.mark.slow
class TestInt8Bytes(BackendConformance):
    backend = "onnx"
    export_options: ClassVar = INTEGERS | {"io": "uint8", "normalize": True}


@pytest.mark.slow
class TestImageBytes(BackendConformance):
    backend = "onnx"
    export_options: ClassVar = {"io": "uint8", "normalize": True}


@pytest.mark.slow
class TestFloat16(BackendConformance):
    backend = "onnx"
    export_options: ClassVar = {"mode": "fp16"}
