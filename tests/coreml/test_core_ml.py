"""Core ML as the engine, as on macOS, with a stand-in for Core ML.

The stand-in is coremltools' `MLModel` except for what needs macOS: loading and predicting. It computes with timmx's
evaluator, and returns what coremltools documents for `predict`.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import timmx
from PIL import Image
from timmx.errors import ArtifactError, RuntimeUnavailable
from timmx_coreml.options import ComputeUnits
from timmx_coreml.package import read
from timmx_coreml.runner import Evaluator, open_runner


@pytest.fixture
def macos(monkeypatch):
    """A machine where coremltools reaches Core ML; `load_error` and `bridge` set the result of loading a file."""
    import coremltools as ct

    class StandIn(ct.models.MLModel):
        load_error: str | None = None
        bridge: object | None = object()

        def __init__(self, model, *arguments, skip_model_load=False, compute_units=None, **options):
            super().__init__(model, *arguments, skip_model_load=True, **options)
            self.requested_units = compute_units
            if isinstance(model, str) and not skip_model_load:
                self.__proxy__ = None if self.load_error else self.bridge
                self._framework_error = self.load_error and RuntimeError(self.load_error)
                self._evaluator = Evaluator(read(Path(model)))

        def predict(self, data):
            feeds = {}
            for name, value in data.items():
                if isinstance(value, Image.Image):
                    pixels = np.asarray(value)
                    value = pixels[None, None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)[None]
                feeds[name] = value
            outputs = self._evaluator.run(feeds)
            # Core ML's dictionaries have no order.
            return {
                name: dict(reversed(value.items())) if isinstance(value, dict) else value
                for name, value in outputs.items()
            }

    source = inspect.getsource(ct.models.MLModel.__init__)
    assert "self.__proxy__" in source
    assert "self._framework_error" in source
    assert "compute_units" in inspect.signature(ct.models.MLModel).parameters
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(ct.models, "MLModel", StandIn)
    return StandIn


def test_core_ml_gets_the_compute_units(export, tmp_path, digits, macos):
    import coremltools as ct

    result = timmx.export("coreml", digits, output=tmp_path / "a.mlpackage", compute_units="cpu-ne")
    assert result.verification.status == "verified"
    assert result.verification.engine == ""
    for units, real in (
        (ComputeUnits.ALL, ct.ComputeUnit.ALL),
        (ComputeUnits.CPU, ct.ComputeUnit.CPU_ONLY),
        (ComputeUnits.CPU_GPU, ct.ComputeUnit.CPU_AND_GPU),
        (ComputeUnits.CPU_NE, ct.ComputeUnit.CPU_AND_NE),
    ):
        with open_runner(result.path, units) as runner:
            assert runner._engine._model.requested_units is real


@pytest.mark.parametrize("kind", ["mlprogram", "neuralnetwork"])
def test_core_ml_takes_images_and_returns_dictionaries(export, tmp_path, digits, macos, kind):
    path = tmp_path / ("a.mlpackage" if kind == "mlprogram" else "a.mlmodel")
    options = {"normalize": True, "image_input": True, "classifier": True, "softmax": True}
    result = timmx.export("coreml", digits, output=path, convert_to=kind, **options)
    assert result.verification.status == "verified"
    assert result.verification.top1_agreement == 1.0


def test_file_that_core_ml_cannot_load_is_reported(export, tmp_path, digits, macos, monkeypatch):
    result = timmx.export("coreml", digits, output=tmp_path / "a.mlpackage", verify=False)
    monkeypatch.setattr(macos, "load_error", "unsupported opset")
    with pytest.raises(ArtifactError, match=r"unsupported opset\nhint: .*--target"):
        timmx.open(result.path)
    monkeypatch.setattr(macos, "load_error", None)
    monkeypatch.setattr(macos, "bridge", None)
    with pytest.raises(RuntimeUnavailable, match=r"bridge.*\nhint: .*uv pip install --reinstall"):
        timmx.open(result.path)
